package arch

import (
	"go/ast"
	"strings"
	"testing"
)

// layers says what may import what: a package imports only packages of lower
// layers, and those of its own subtree. The longest path that fits counts, so
// what has no line of its own belongs to the directory above it.
var layers = map[string]int{
	"proto":          0,
	"bind":           1,
	"signal":         1,
	"tun":            1,
	"tun/offload":    0, // bytes alone; for tun and tun/netstack
	"tun/netstack":   1,
	"device/config":  1,
	"device/control": 1,

	"signal/session":    2,
	"signal/libp2p":     2,
	"signal/kubernetes": 2,
	"signal/inproc":     2,
	"signal/signaltest": 2,
	"signal/rendezvous": 2,

	"device":        3,
	"device/tunnel": 4,
	"cmd":           5,
	"test":          6,
}

// sideways are the imports within a layer that are wanted, with their reason.
var sideways = map[[2]string]string{
	{"signal/rendezvous", "signal/libp2p"}: "the server is a libp2p node with the same identity and the same assembly",
}

// forbidden are imports that the layers would allow.
var forbidden = map[[2]string]string{
	{"signal/session", "bind"}:   "a session knows the mux and the path setter by its own small interfaces",
	{"signal/session", "signal"}: "a session sends offers through a function, whatever carries them",
}

// place returns the path in layers that a package belongs to, "" if there is none.
func place(pkg string) string {
	for p := pkg; p != ""; {
		if _, ok := layers[p]; ok {
			return p
		}
		slash := strings.LastIndexByte(p, '/')
		if slash < 0 {
			return ""
		}
		p = p[:slash]
	}
	return ""
}

func TestLayers(t *testing.T) {
	s := module(t)
	for _, f := range s.files {
		from := place(f.dir)
		if from == "" {
			t.Errorf("%s: package %q has no layer: give it one in test/arch", f.name, f.dir)
			continue
		}
		f.imports(func(spec *ast.ImportSpec, imported string) {
			pkg, ours := strings.CutPrefix(imported, modulePath+"/")
			if !ours {
				return
			}
			to := place(pkg)
			if why := misplaced(f, from, to); why != "" {
				t.Errorf("%s: %s imports %s: %s", s.at(spec), f.dir, pkg, why)
			}
		})
	}
}

// misplaced says what is wrong with an import, "" if nothing is.
func misplaced(f *file, from, to string) string {
	switch {
	case to == "":
		return "it has no layer"
	case layers[to] == layers["cmd"]:
		return "commands are not libraries"
	case f.test:
		return "" // tests put parts of all layers together
	case layers[to] == layers["test"] && layers[from] != layers["test"]:
		return "production code imports nothing of test"
	case forbidden[[2]string{from, to}] != "":
		return forbidden[[2]string{from, to}]
	case from == to, layers[to] < layers[from], layers[to] == layers["test"], sideways[[2]string{from, to}] != "":
		return ""
	case layers[to] == layers[from]:
		return "packages of one layer don't import each other"
	}
	return "imports go down only"
}

func TestMisplaced(t *testing.T) {
	tests := []struct {
		from, to string
		test, ok bool
	}{
		{"bind", "proto/key", false, true},
		{"proto/key", "proto", false, true},
		{"bind", "signal", false, false},
		{"device/config", "device/control", false, false},
		{"device/config", "device", false, false},
		{"device", "device/config", false, true},
		{"signal/session", "bind", false, false},
		{"signal/kubernetes", "signal", false, true},
		{"signal/kubernetes/crd", "signal/kubernetes", false, true},
		{"signal/kubernetes", "signal/libp2p", false, false},
		{"signal/kubernetes", "signal/signaltest", true, true},
		{"signal/rendezvous", "signal/libp2p", false, true},
		{"proto", "device", false, false},
		{"device", "test/natlab", false, false},
		{"device", "test/natlab", true, true},
		{"test/e2e", "test/natlab", false, true},
		{"test/e2e", "cmd/wice-go", true, false},
		{"cmd/wice-go", "device", false, true},
		{"device/tunnel", "device", false, true},
		{"device/tunnel", "signal/libp2p", false, true},
		{"device", "device/tunnel", false, false},
		{"test/e2e", "device/tunnel", false, true},
	}
	for _, test := range tests {
		why := misplaced(&file{dir: test.from, test: test.test}, place(test.from), place(test.to))
		if (why == "") != test.ok {
			t.Errorf("%s imports %s: got %q, want ok %v", test.from, test.to, why, test.ok)
		}
	}
}
