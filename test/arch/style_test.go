package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// maxLines is the limit of a source file that people write. Most have 60 to 200.
const maxLines = 700

func TestFileSize(t *testing.T) {
	for _, f := range module(t).files {
		if !f.test && !f.generated && f.lines > maxLines {
			t.Errorf("%s has %d lines, over %d: split it by noun", f.name, f.lines, maxLines)
		}
	}
}

// Every package has exactly one package comment, in whatever file. Generated
// files may repeat one; a package of tests alone has it in a test.
func TestPackageComments(t *testing.T) {
	type comments struct{ production, tests, found []string }
	packages := make(map[string]*comments)
	for _, f := range module(t).files {
		if strings.HasSuffix(f.syntax.Name.Name, "_test") {
			continue
		}
		p := packages[f.dir]
		if p == nil {
			p = new(comments)
			packages[f.dir] = p
		}
		if f.test {
			p.tests = append(p.tests, f.name)
		} else {
			p.production = append(p.production, f.name)
		}
		if f.syntax.Doc == nil || f.generated {
			continue
		}
		// Directives are no comment.
		text := f.syntax.Doc.Text()
		if text == "" {
			continue
		}
		if f.test && len(p.production) > 0 {
			t.Errorf("%s: a package comment in a test: put it into the package", f.name)
		}
		p.found = append(p.found, f.name)
		want := "Package " + f.syntax.Name.Name + " "
		if f.syntax.Name.Name == "main" {
			command := f.dir[strings.LastIndexByte(f.dir, '/')+1:]
			if !strings.HasPrefix(text, "Command "+command+" ") && !strings.HasPrefix(strings.ToLower(text), command+" ") {
				t.Errorf("%s: the package comment does not begin with %q", f.name, "Command "+command)
			}
		} else if !strings.HasPrefix(text, want) {
			t.Errorf("%s: the package comment does not begin with %q", f.name, want)
		}
	}
	for dir, p := range packages {
		generated := !slices.ContainsFunc(module(t).files, func(f *file) bool { return f.dir == dir && !f.generated })
		if len(p.found) != 1 && !generated {
			t.Errorf("%s has %d package comments %v, want one", dir, len(p.found), p.found)
		}
	}
}

// Exported functions, types, and groups of constants and variables say what
// they are. Methods are left to the reader of the type: many only fulfil an interface.
func TestExportedComments(t *testing.T) {
	s := module(t)
	for _, f := range s.files {
		if f.test || f.generated || f.syntax.Name.Name == "main" {
			continue
		}
		for _, decl := range f.syntax.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.IsExported() && d.Doc == nil {
					t.Errorf("%s: %s has no comment", s.at(d), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, name := range undocumented(d) {
					t.Errorf("%s: %s has no comment", s.at(d), name)
				}
			}
		}
	}
}

func undocumented(d *ast.GenDecl) []string {
	var names []string
	for _, spec := range d.Specs {
		switch v := spec.(type) {
		case *ast.TypeSpec:
			if v.Name.IsExported() && v.Doc == nil && d.Doc == nil {
				names = append(names, v.Name.Name)
			}
		case *ast.ValueSpec:
			if v.Names[0].IsExported() && v.Doc == nil && v.Comment == nil && d.Doc == nil {
				names = append(names, v.Names[0].Name)
			}
		}
	}
	return names
}

func TestNoInit(t *testing.T) {
	s := module(t)
	for _, f := range s.files {
		for _, decl := range f.syntax.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" && !f.generated {
				t.Errorf("%s: func init: say in the caller what must happen first", s.at(d))
			}
		}
	}
}

// selects reports whether n is the selector pkg.name of an imported package.
func selects(n ast.Node, pkg, name string) bool {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && id.Name == pkg
}

func TestNoSleepInTests(t *testing.T) {
	s := module(t)
	for _, f := range s.files {
		if !f.test {
			continue
		}
		for n := range ast.Preorder(f.syntax) {
			if selects(n, "time", "Sleep") {
				t.Errorf("%s: time.Sleep in a test: wait for the condition, or use testing/synctest", s.at(n))
			}
		}
	}
}

// leftover are words of unfinished work.
var leftover = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)

func TestNoLeftovers(t *testing.T) {
	s := module(t)
	for _, f := range s.files {
		if f.generated {
			continue
		}
		for _, group := range f.syntax.Comments {
			for _, c := range group.List {
				if m := leftover.FindString(c.Text); m != "" {
					t.Errorf("%s: %s: finish it, or file an issue", s.at(c), m)
				}
			}
		}
	}
}

// strangers are public servers: nothing is contacted that the user did not name.
var strangers = regexp.MustCompile(`google\.com|cloudflare|bootstrap\.libp2p\.io|stunprotocol|twilio`)

func TestNoDefaultServers(t *testing.T) {
	s := module(t)
	for _, f := range s.files {
		if f.test || f.generated {
			continue
		}
		skip := make(map[ast.Node]bool)
		for n := range ast.Preorder(f.syntax) {
			switch v := n.(type) {
			case *ast.ImportSpec:
				skip[v.Path] = true
			case *ast.BasicLit:
				if v.Kind != token.STRING || skip[v] {
					continue
				}
				if text, err := strconv.Unquote(v.Value); err == nil && strangers.MatchString(text) {
					t.Errorf("%s: %s names a public server: nothing is contacted that the user did not name", s.at(v), v.Value)
				}
			case *ast.SelectorExpr:
				if strings.HasPrefix(v.Sel.Name, "DefaultBootstrapPeers") || strings.HasPrefix(v.Sel.Name, "GetDefaultBootstrapPeer") {
					t.Errorf("%s: %s: nothing is contacted that the user did not name", s.at(v), v.Sel.Name)
				}
			}
		}
	}
}

// A package that starts goroutines proves with goleak that it ends them. The
// command is proved by the tests that run it, helpers for tests by their users.
func TestGoroutinesAreWatched(t *testing.T) {
	s := module(t)
	starts := make(map[string]string)
	watched := make(map[string]bool)
	for _, f := range s.files {
		if f.test {
			f.imports(func(_ *ast.ImportSpec, imported string) {
				watched[f.dir] = watched[f.dir] || imported == "go.uber.org/goleak"
			})
			continue
		}
		if layers[place(f.dir)] >= layers["cmd"] || strings.HasSuffix(f.dir, "test") {
			continue
		}
		for n := range ast.Preorder(f.syntax) {
			if _, ok := n.(*ast.GoStmt); ok {
				starts[f.dir] = s.at(n)
			}
		}
	}
	for dir, at := range starts {
		if !watched[dir] {
			t.Errorf("%s: %s starts goroutines, and no test there uses goleak", at, dir)
		}
	}
}

// parserName is how functions that read what comes from outside are called.
var parserName = regexp.MustCompile(`^(Parse|Unmarshal|Decode)`)

// A package with parsers has fuzz targets.
func TestParsersAreFuzzed(t *testing.T) {
	s := module(t)
	parsers := make(map[string]string)
	fuzzed := make(map[string]bool)
	for _, f := range s.files {
		for _, decl := range f.syntax.Decls {
			d, ok := decl.(*ast.FuncDecl)
			switch {
			case !ok || f.generated || f.syntax.Name.Name == "main":
			case f.test && strings.HasPrefix(d.Name.Name, "Fuzz"):
				fuzzed[f.dir] = true
			case !f.test && d.Recv == nil && parserName.MatchString(d.Name.Name):
				parsers[f.dir] = fmt.Sprintf("%s: %s", s.at(d), d.Name.Name)
			}
		}
	}
	for dir, at := range parsers {
		if !fuzzed[dir] {
			t.Errorf("%s: no fuzz target in %s", at, dir)
		}
	}
}
