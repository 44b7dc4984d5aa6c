package tun

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

var (
	// ErrInUse says that a live process holds the journal: its interface is up.
	ErrInUse = errors.New("the interface is up already: another process holds its journal")
	// ErrUntrusted says that others can write the journal, whose content is acted upon with this user's rights.
	ErrUntrusted = errors.New("the journal belongs to another user or can be written by others; remove it by hand")
)

// maxJournal bounds what is read from a journal, in bytes. A full tunnel writes about 2 KiB.
const maxJournal = 1 << 20

// Journal is the list of changes that a process has made to the system and not yet taken back. It is a file of JSON
// lines, each written and synced before the change that it tells of, so that whatever moment the process dies in, the
// next one knows at least all that was done:
//
//	{"id":1,"step":{"kind":"rule",...}}   about to be done
//	{"undone":[1]}                        taken back
//	{"note":{"kind":"...","value":"..."}} a note of the caller
//
// An unfinished last line tells of a change that was never made, and is ignored. The owner holds a lock on the file; it
// ends with the process. All methods are safe for concurrent use.
type Journal struct {
	path string // constant; empty: in memory only

	mu    sync.Mutex // guards the following
	file  *os.File   // nil: in memory only, or closed
	last  int        // highest id given
	steps []recorded // in the order done
	notes []Note
}

// Note is a string that the caller left in the journal.
type Note struct {
	Kind  string `json:"kind"`
	Value string `json:"value"`
}

type recorded struct {
	id int
	step
}

// record is one line of the file; exactly one of its parts is there.
type record struct {
	ID     int   `json:"id,omitempty"`
	Step   *step `json:"step,omitempty"`
	Undone []int `json:"undone,omitempty"`
	Note   *Note `json:"note,omitempty"`
}

// OpenJournal opens or makes the journal at path, with mode 0600, its directory included (0700). What the file holds is
// kept, and a later Configured.Close takes it back too; call Recover first to start afresh. The error matches ErrInUse
// when another process has it, and ErrUntrusted when others could have written it.
func OpenJournal(path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return openJournal(path, os.O_RDWR|os.O_CREATE)
}

func openJournal(path string, flags int) (*Journal, error) {
	for {
		j, err := tryOpenJournal(path, flags)
		if !errors.Is(err, errRemoved) {
			return j, err
		}
	}
}

// errRemoved says that the former owner removed the file between its being opened and its being locked by us.
var errRemoved = errors.New("removed by its owner")

func tryOpenJournal(path string, flags int) (*Journal, error) {
	file, err := os.OpenFile(path, flags|openNoFollow, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{path: path, file: file}
	if err := j.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", path, err), file.Close())
	}
	return j, nil
}

// load takes the lock, reads the file, and leaves it ready to be appended to.
func (j *Journal) load() error {
	if err := lockFile(j.file); err != nil {
		return err
	}
	ours, err := j.file.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(j.path); err != nil || !os.SameFile(ours, there) {
		return errRemoved
	}
	if !ours.Mode().IsRegular() || !trusted(ours) {
		return ErrUntrusted
	}
	text, err := io.ReadAll(io.LimitReader(j.file, maxJournal+1))
	if err != nil {
		return err
	}
	whole, err := j.parse(text)
	if err != nil {
		return err
	}
	if whole < len(text) {
		if err := j.file.Truncate(int64(whole)); err != nil {
			return err
		}
	}
	if _, err := j.file.Seek(int64(whole), io.SeekStart); err != nil {
		return err
	}
	if len(text) == 0 {
		return syncDir(filepath.Dir(j.path))
	}
	return nil
}

// parse reads the text of a journal and returns the length of its finished lines.
func (j *Journal) parse(text []byte) (int, error) {
	if len(text) > maxJournal {
		return 0, fmt.Errorf("longer than %d bytes", maxJournal)
	}
	whole := bytes.LastIndexByte(text, '\n') + 1
	n := 0
	for line := range bytes.Lines(text[:whole]) {
		n++
		var r record
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			return 0, fmt.Errorf("line %d: %w", n, err)
		}
		if d.More() {
			return 0, fmt.Errorf("line %d: more than one record", n)
		}
		switch {
		case r.Step != nil:
			if err := r.Step.check(); err != nil {
				return 0, fmt.Errorf("line %d: %w", n, err)
			}
			if r.ID <= j.last {
				return 0, fmt.Errorf("line %d: id %d does not follow %d", n, r.ID, j.last)
			}
			j.last = r.ID
			j.steps = append(j.steps, recorded{r.ID, *r.Step})
		case r.Note != nil:
			j.notes = append(j.notes, *r.Note)
		default:
			j.forgetLocked(r.Undone)
		}
	}
	return whole, nil
}

// Note leaves a string in the journal, such as a command to run when the interface goes down. It is on disk when Note
// returns.
func (j *Journal) Note(kind, value string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := Note{Kind: kind, Value: value}
	if err := j.writeLocked(record{Note: &n}); err != nil {
		return err
	}
	j.notes = append(j.notes, n)
	return nil
}

// Notes returns what an earlier process left in the journal at path, oldest first; none if there is no such file. It
// refuses (ErrInUse) the journal of a live process. Call it before Recover, which removes the file.
func Notes(path string) ([]Note, error) {
	j, err := openJournal(path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return j.notes, j.file.Close()
}

// Recover takes back what a process that died without doing so has left behind, as its journal at path tells, and
// removes the journal. There is nothing to do if there is no such file. What cannot be taken back stays in the file
// and is named in the error. The error matches ErrInUse when that process still lives.
func Recover(path string) error {
	j, err := openJournal(path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	u := newUndoer(true)
	err = j.undo(func(recorded) bool { return true }, u.undo)
	u.close()
	if err != nil {
		return errors.Join(fmt.Errorf("recover %s: %w", path, err), j.release())
	}
	return j.Close()
}

// Close removes the file, unless it still tells of changes that have not been taken back: then it stays for Recover.
// Notes do not keep it; who left them has acted on them by then. Close is idempotent.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	file := j.file
	j.file = nil
	if len(j.steps) > 0 {
		return errors.Join(fmt.Errorf("close journal %s: %d changes have not been taken back", j.path, len(j.steps)), file.Close())
	}
	if err := removeLocked(file); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// release closes the file and leaves it where it is.
func (j *Journal) release() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	file := j.file
	j.file = nil
	return file.Close()
}

// begin writes down the steps that are about to be done.
func (j *Journal) begin(steps ...step) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var records []record
	first := len(j.steps)
	for _, s := range steps {
		if err := s.check(); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		j.last++
		j.steps = append(j.steps, recorded{j.last, s})
		if s.durable() {
			records = append(records, record{ID: j.last, Step: &s})
		}
	}
	if err := j.writeLocked(records...); err != nil {
		j.steps = j.steps[:first]
		return err
	}
	return nil
}

// undo takes back the steps that match, last first. One that fails stays, and the rest go on.
func (j *Journal) undo(match func(recorded) bool, take func(step) error) error {
	j.mu.Lock()
	steps := slices.Clone(j.steps)
	j.mu.Unlock()
	var errs []error
	var undone, lines []int
	for _, s := range slices.Backward(steps) {
		if !match(s) {
			continue
		}
		if err := take(s.step); err != nil {
			errs = append(errs, err)
			continue
		}
		undone = append(undone, s.id)
		if s.durable() {
			lines = append(lines, s.id)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.forgetLocked(undone)
	if len(lines) > 0 {
		errs = append(errs, j.writeLocked(record{Undone: lines}))
	}
	return errors.Join(errs...)
}

// find returns the first step that matches.
func (j *Journal) find(match func(step) bool) (step, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.steps {
		if match(s.step) {
			return s.step, true
		}
	}
	return step{}, false
}

// mark returns the id of the last step; steps after it have been done since.
func (j *Journal) mark() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// forget drops steps that were begun and then refused by the system: what they would take back is not ours.
func (j *Journal) forget(steps ...step) error {
	gone := make(map[step]bool, len(steps))
	for _, s := range steps {
		gone[s] = true
	}
	return j.undo(func(s recorded) bool { return gone[s.step] }, func(step) error { return nil })
}

func (j *Journal) forgetLocked(ids []int) {
	gone := make(map[int]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	j.steps = slices.DeleteFunc(j.steps, func(s recorded) bool { return gone[s.id] })
}

// writeLocked appends the records in one write and waits until they are on disk.
func (j *Journal) writeLocked(records ...record) error {
	if j.path == "" || len(records) == 0 {
		return nil
	}
	if j.file == nil {
		return fmt.Errorf("journal %s: %w", j.path, os.ErrClosed)
	}
	var text bytes.Buffer
	for _, r := range records {
		if err := json.NewEncoder(&text).Encode(r); err != nil {
			return fmt.Errorf("journal %s: %w", j.path, err)
		}
	}
	if _, err := j.file.Write(text.Bytes()); err != nil {
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("journal %s: %w", j.path, err)
	}
	return nil
}
