package main

import (
	"context"
	"strings"
	"testing"
)

// pieces is a writer that ends the program with the first thing it writes.
type pieces struct {
	all  []string
	stop context.CancelFunc
}

func (p *pieces) Write(b []byte) (int, error) {
	p.all = append(p.all, string(b))
	p.stop()
	return len(b), nil
}

// A program that starts a rendezvous reads its lines, and does not know how many there will be: the first piece has all of them.
func TestRendezvousLinesInOnePiece(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	a, out := newTestApp(t, ""), &pieces{stop: stop}
	a.stdout = out
	root := a.rootCommand()
	root.SetArgs([]string{"rendezvous", "--address", "127.0.0.1", "--announce", "127.0.0.2", "--announce", "127.0.0.3",
		"--port", "0", "--stun-port", "0", "--state", t.TempDir()})
	if err := root.ExecuteContext(ctx); err != nil {
		t.Fatalf("%v\n%s", err, a.errs.String())
	}
	if len(out.all) != 1 || strings.Count(out.all[0], "\n") != 2 || !strings.HasSuffix(out.all[0], "\n") {
		t.Errorf("got %q, want one piece with two lines", out.all)
	}
}
