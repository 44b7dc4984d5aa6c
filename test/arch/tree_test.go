package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// topLevel is what the repository may have at its top.
var topLevel = []string{
	".ci", ".gitattributes", ".github", ".gitignore", ".golangci.yml", ".tools",
	"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "go.mod", "go.sum",
	"bind", "cmd", "device", "docs", "proto", "signal", "test", "tun",
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	ignored := ignoredNames(t)
	for _, e := range entries {
		if e.Name() != ".git" && !slices.Contains(topLevel, e.Name()) && !slices.Contains(ignored, e.Name()) {
			t.Errorf("%s: not one of the entries that the top has: put it below one of %v", e.Name(), topLevel)
		}
	}
}

// ignoredNames returns the names at the top that git ignores.
func ignoredNames(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		names = append(names, strings.Trim(strings.TrimSpace(line), "/"))
	}
	return names
}

// docs are the Markdown files of the project.
func docs(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			return skipDir(p, rel)
		}
		if strings.HasSuffix(p, ".md") {
			found = append(found, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var (
	// unfinished are promises instead of facts.
	unfinished = regexp.MustCompile(`(?i)\b(TODO|FIXME|coming soon|not (yet )?implemented|work in progress)\b`)
	// ownMachine are paths that exist on one developer's machine.
	ownMachine = regexp.MustCompile(`(^|[\s"'(=])/(root|work|home/[a-z]+)/`)
	mdLink     = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	makeCall   = regexp.MustCompile("(?m)(?:^\\s*\\$? ?|`)(?:sudo )?make ([a-z0-9][a-z0-9-]*)")
	makeTarget = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
)

// What the documents say of the tree is true: links lead somewhere, and make has the targets.
func TestDocuments(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := make(map[string]bool)
	for _, m := range makeTarget.FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	for _, name := range docs(t) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if m := unfinished.FindString(text); m != "" {
			t.Errorf("%s: %q: say what is, or leave it out", name, m)
		}
		if m := ownMachine.FindString(text); m != "" {
			t.Errorf("%s: %q is a path of one machine", name, m)
		}
		for _, m := range mdLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], ":") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
			}
		}
		for _, m := range makeCall.FindAllStringSubmatch(text, -1) {
			if !targets[m[1]] {
				t.Errorf("%s: make %s: there is no such target", name, m[1])
			}
		}
	}
}

// Each target of make says what it does.
func TestMakeTargetsHaveHelp(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"bench", "build", "check", "demo", "e2e", "fuzz", "generate", "help", "lint", "race", "test"}
	helped := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9-]+):[^\n]*## \S`).FindAllStringSubmatch(string(makefile), -1) {
		helped[m[1]] = true
	}
	for _, target := range want {
		if !helped[target] {
			t.Errorf("Makefile: %s is missing or has no ## help line", target)
		}
	}
	for _, m := range makeTarget.FindAllStringSubmatch(string(makefile), -1) {
		if !helped[m[1]] {
			t.Errorf("Makefile: %s has no ## help line", m[1])
		}
	}
}
