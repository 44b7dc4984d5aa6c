package arch

import (
	"bytes"
	"go/ast"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ban is a package that must not be imported, with the reason.
type ban struct {
	path string
	tree bool // what is below the path too
	why  string
}

// bannedImports must not be imported by any file here.
var bannedImports = []ban{
	{"log", false, "use the injected log/slog logger"},
	{"github.com/pkg/errors", true, "use fmt.Errorf with %w"},
	{"github.com/sirupsen/logrus", true, "use log/slog"},
	{"go.uber.org/zap", true, "use log/slog"},
	{"github.com/stretchr/testify", true, "use testing and go-cmp"},
	{"github.com/golang/mock", true, "write a fake by hand"},
	{"go.uber.org/mock", true, "write a fake by hand"},
	{"github.com/libp2p/go-libp2p", false, "the root package links webrtc, ice/v4 and fx: assemble the host from its parts"},
}

// bannedLinks must not be in the binary, whoever imports them.
var bannedLinks = []ban{
	{"github.com/libp2p/go-libp2p", false, "the root package links webrtc, ice/v4 and fx: assemble the host from its parts"},
	{"github.com/libp2p/go-libp2p-pubsub", true, "it registers the same protobuf file as etcd, and loses first messages"},
	{"github.com/pion/webrtc", true, "5 MB for a transport that ICE makes superfluous"},
	{"github.com/pion/ice/v4", true, "the ICE agent here is ice/v2: two would be two behaviours"},
	{"go.uber.org/fx", true, "nothing here needs dependency injection"},
	{"go.etcd.io/etcd", true, "servers for tests stay in tests"},
	{"k8s.io/kubernetes", true, "servers for tests stay in tests"},
	{"k8s.io/apiextensions-apiserver", true, "servers for tests stay in tests"},
}

// bannedInProto keeps the messages free of I/O.
var bannedInProto = []ban{
	{"net/http", true, "no I/O in proto"},
	{"os", true, "no I/O in proto"},
	{"github.com/pion", true, "the wire format does not depend on an ICE library"},
	{"github.com/libp2p", true, "the wire format does not depend on a backend"},
}

// find returns the ban of a package, nil if there is none.
func find(bans []ban, pkg string) *ban {
	for i, b := range bans {
		if pkg == b.path || b.tree && within(pkg, b.path) {
			return &bans[i]
		}
	}
	return nil
}

// major is the version that ends a module path: bans mean every major version, or the one that they name.
var major = regexp.MustCompile(`/v[0-9]+(/|$)`)

// findAnyMajor looks also without the major version in the path.
func findAnyMajor(bans []ban, pkg string) *ban {
	if b := find(bans, pkg); b != nil {
		return b
	}
	return find(bans, strings.TrimSuffix(major.ReplaceAllString(pkg, "$1"), "/"))
}

func TestImports(t *testing.T) {
	s := module(t)
	for _, f := range s.files {
		f.imports(func(spec *ast.ImportSpec, imported string) {
			// An example may end with log.Fatal, as readers of documentation expect.
			example := strings.HasPrefix(path.Base(f.name), "example") && imported == "log"
			if b := findAnyMajor(bannedImports, imported); b != nil && !example {
				t.Errorf("%s: imports %s: %s", s.at(spec), imported, b.why)
			}
			// Packages of helpers for tests have names such as bindtest.
			if imported == "testing" && !f.test && place(f.dir) != "test" && !strings.HasSuffix(f.dir, "test") {
				t.Errorf("%s: imports testing: test code stays in tests", s.at(spec))
			}
			if within(f.dir, "proto") && !f.test && !f.generated {
				if b := findAnyMajor(bannedInProto, imported); b != nil {
					t.Errorf("%s: imports %s: %s", s.at(spec), imported, b.why)
				}
			}
		})
	}
}

// networking are the names of package net that do more than take text apart.
var networking = regexp.MustCompile(`^(Dial|Listen|Lookup|Resolve|Interface|File|DefaultResolver)`)

func TestProtoDoesNoIO(t *testing.T) {
	s := module(t)
	for _, f := range s.files {
		if !within(f.dir, "proto") || f.test || f.generated {
			continue
		}
		for n := range ast.Preorder(f.syntax) {
			if sel, ok := n.(*ast.SelectorExpr); ok && networking.MatchString(sel.Sel.Name) && selects(n, "net", sel.Sel.Name) {
				t.Errorf("%s: net.%s: no I/O in proto", s.at(n), sel.Sel.Name)
			}
		}
	}
}

// The command is listed for two systems: Linux has most of the code, Windows the most of what Linux lacks.
func TestBinaryLinks(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, "cmd", "wice-go")); err != nil {
		t.Fatal(err)
	}
	for _, system := range []string{"linux", "windows"} {
		cmd := exec.Command("go", "list", "-deps", "./cmd/wice-go")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("list what the command links on %s: %v\n%s", system, err, &stderr)
		}
		for pkg := range strings.FieldsSeq(string(out)) {
			if b := findAnyMajor(bannedLinks, pkg); b != nil {
				t.Errorf("%s: the command links %s: %s", system, pkg, b.why)
			}
			if within(pkg, modulePath+"/test") || pkg == modulePath+"/signal/signaltest" {
				t.Errorf("%s: the command links %s: test code stays in tests", system, pkg)
			}
		}
	}
}

func TestBans(t *testing.T) {
	for pkg, want := range map[string]bool{
		"github.com/libp2p/go-libp2p":              true,
		"github.com/libp2p/go-libp2p/core/peer":    false,
		"github.com/libp2p/go-libp2p-pubsub/pb":    true,
		"github.com/pion/webrtc/v4":                true,
		"github.com/pion/webrtc/v4/internal/mux":   true,
		"github.com/pion/ice/v2":                   false,
		"github.com/pion/ice/v4":                   true,
		"github.com/pion/ice/v4/internal/taskloop": true,
		"github.com/libp2p/go-libp2p-kad-dht":      false,
		"go.etcd.io/etcd/server/v3/embed":          true,
	} {
		if got := findAnyMajor(bannedLinks, pkg) != nil; got != want {
			t.Errorf("%s: got banned %v, want %v", pkg, got, want)
		}
	}
}

func TestGoModHasNoReplace(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^\s*replace\b`).Match(text) {
		t.Error("go.mod has a replace: `go install` of the command would refuse it")
	}
}
