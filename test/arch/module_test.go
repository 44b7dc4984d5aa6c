package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// modulePath is the main module's.
const modulePath = "github.com/wice-go/wice-go"

// root is the module's directory as seen from here.
const root = "../.."

// file is one Go file of the main module.
type file struct {
	name      string // path below the module, with slashes
	dir       string // its directory: the package's path in the module; "" for the root
	syntax    *ast.File
	lines     int
	test      bool
	generated bool
}

// source is every Go file of the main module.
type source struct {
	fset  *token.FileSet
	files []*file
}

// load parses the module once for all tests.
var load = sync.OnceValues(func() (*source, error) {
	s := &source{fset: token.NewFileSet()}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(p, rel)
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		syntax, err := parser.ParseFile(s.fset, rel, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(rel)
		if dir == "." {
			dir = ""
		}
		s.files = append(s.files, &file{
			name: rel, dir: dir, syntax: syntax,
			lines: strings.Count(string(text), "\n"),
			test:  strings.HasSuffix(rel, "_test.go"), generated: ast.IsGenerated(syntax),
		})
		return nil
	})
	return s, err
})

// skipDir leaves out what the go command leaves out: hidden directories,
// test data, and nested modules.
func skipDir(p, rel string) error {
	if rel == "." {
		return nil
	}
	name := filepath.Base(p)
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "bin" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func module(t *testing.T) *source {
	t.Helper()
	s, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.files) == 0 {
		t.Fatal("no Go file found: the tests have lost the module")
	}
	return s
}

// at returns file:line of a node.
func (s *source) at(n ast.Node) string {
	p := s.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// imports calls f with every import of a file.
func (f *file) imports(call func(spec *ast.ImportSpec, imported string)) {
	for _, spec := range f.syntax.Imports {
		if imported, err := strconv.Unquote(spec.Path.Value); err == nil {
			call(spec, imported)
		}
	}
}

// within reports whether a package is dir or below it.
func within(pkg, dir string) bool {
	return pkg == dir || strings.HasPrefix(pkg, dir+"/")
}
