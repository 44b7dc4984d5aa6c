package tun

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJournalKeepsWhatIsNotUndone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "j")
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	a := step{Kind: stepSuppress, Interface: "wg0", Priority: 1}
	b := step{Kind: stepSuppress, Interface: "wg0", Priority: 2}
	c := step{Kind: stepAddress, Interface: "wg0", Prefix: prefixes("10.0.0.1/24")[0]}
	if err := errors.Join(j.begin(a, c), j.Note("k", "two\nlines"), j.begin(b)); err != nil {
		t.Fatal(err)
	}
	var order []int
	boom := errors.New("boom")
	err = j.undo(func(recorded) bool { return true }, func(s step) error {
		order = append(order, s.Priority)
		if s == b {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) {
		t.Errorf("undo: got %v, want %v", err, boom)
	}
	if diff := cmp.Diff([]int{2, 0, 1}, order); diff != "" {
		t.Errorf("order: %s", diff)
	}
	if err := j.Close(); err == nil {
		t.Error("a journal with steps left closed without an error")
	}
	if err := j.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if err := j.Note("k", "v"); err == nil {
		t.Error("a note in a closed journal")
	}

	// A line that the process did not finish is dropped, and the next one written in its place.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"id":9,"step":{"kind":"dns","interf`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	notes, err := Notes(path)
	if diff := cmp.Diff([]Note{{"k", "two\nlines"}}, notes); diff != "" || err != nil {
		t.Errorf("notes: %v %s", err, diff)
	}
	if j, err = OpenJournal(path); err != nil {
		t.Fatal(err)
	}
	if s, ok := j.find(func(step) bool { return true }); !ok || s != b {
		t.Errorf("after reopening: got %v, want %v", s, b)
	}
	if err := j.begin(a); err != nil {
		t.Fatal(err)
	}
	if err := j.undo(func(recorded) bool { return true }, func(step) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}

func TestJournalOfOthers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "j")
	if err := Recover(path); err != nil {
		t.Errorf("without a file: %v", err)
	}
	if n, err := Notes(path); n != nil || err != nil {
		t.Errorf("without a file: %v, %v", n, err)
	}
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v", info.Mode(), err)
	}
	if _, err := OpenJournal(path); !errors.Is(err, ErrInUse) {
		t.Errorf("second owner: got %v, want %v", err, ErrInUse)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"not JSON":       "nonsense\n",
		"unknown field":  `{"id":1,"other":2}` + "\n",
		"unknown kind":   `{"id":1,"step":{"kind":"shell","interface":"wg0"}}` + "\n",
		"name":           `{"id":1,"step":{"kind":"nft","interface":"wg0; flush ruleset"}}` + "\n",
		"sysctl":         `{"id":1,"step":{"kind":"sysctl","interface":"wg0","key":"net/../kernel/core_pattern"}}` + "\n",
		"DNS option":     `{"id":1,"step":{"kind":"dns","interface":"wg0","method":"resolvconf","key":"-I"}}` + "\n",
		"DNS method":     `{"id":1,"step":{"kind":"dns","interface":"wg0","method":"sh","key":"wg0"}}` + "\n",
		"order":          strings.Repeat(`{"id":1,"step":{"kind":"nft","interface":"wg0"}}`+"\n", 2),
		"two on a line":  `{"undone":[1]}{"undone":[1]}` + "\n",
		"longer than 1M": strings.Repeat(`{"undone":[]}`+"\n", maxJournal/14+1),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Recover(path); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o622); err != nil {
		t.Fatal(err)
	}
	if err := Recover(path); !errors.Is(err, ErrUntrusted) {
		t.Errorf("writable by all: got %v, want %v", err, ErrUntrusted)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(link); err == nil {
		t.Error("a symbolic link was followed")
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"id":1,"step":{"kind":"rule","interface":"wg0","for":"0.0.0.0/0","priority":32765,"table":51820,"mark":51820}}
{"note":{"kind":"PostDown","value":"x"}}
{"id":3,"step":{"kind":"sysctl","interface":"wg0","key":"net/ipv4/conf/all/src_valid_mark","old":"0","new":"1"}}
{"undone":[1]}
{"id":4,`))
	f.Fuzz(func(t *testing.T, text []byte) {
		j := &Journal{}
		whole, err := j.parse(text)
		if err != nil {
			return
		}
		if whole > len(text) || whole > 0 && text[whole-1] != '\n' {
			t.Errorf("%d bytes of %d are whole", whole, len(text))
		}
		for _, s := range j.steps {
			if err := s.check(); err != nil || s.id > j.last {
				t.Errorf("accepted %+v: %v", s, err)
			}
		}
	})
}
