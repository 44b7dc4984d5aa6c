package inproc

import (
	"errors"
	"net/url"
	"testing"

	"go.uber.org/goleak"

	"github.com/wice-go/wice-go/proto/key"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/signaltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	signaltest.Run(t, func(*testing.T) signaltest.Harness {
		bus := new(Bus)
		return signaltest.Harness{New: func(t *testing.T, env signal.Env) signal.Backend {
			b, err := bus.New(t.Context(), env, nil)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}}
	})
}

func TestNewRefuses(t *testing.T) {
	var bus Bus
	env := signal.Env{Identity: key.NewPrivate(), Sink: signaltest.NewRecorder()}
	first, err := bus.New(t.Context(), env, []url.Values{{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.New(t.Context(), env, nil); err == nil {
		t.Error("two backends have the same identity")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := bus.New(t.Context(), env, nil)
	if err != nil {
		t.Errorf("after Close: %v", err)
	}
	if first.Close(); !second.Status().Connected {
		t.Error("closing the first again took the second off the bus")
	}
	if _, err := bus.New(t.Context(), env, []url.Values{{"x": {"y"}}}); err == nil {
		t.Error("an unknown parameter is accepted")
	}
}

func TestOneSidedPeersAreAbsent(t *testing.T) {
	var bus Bus
	a, b := key.NewPrivate(), key.NewPrivate()
	heard := signaltest.NewRecorder()
	na, _ := bus.New(t.Context(), signal.Env{Identity: a, Sink: signaltest.NewRecorder()}, nil)
	nb, _ := bus.New(t.Context(), signal.Env{Identity: b, Sink: heard}, nil)
	na.SetPeers([]key.Public{b.Public()})
	if err := na.Publish(t.Context(), b.Public(), []byte("x")); !errors.Is(err, ErrAbsent) {
		t.Errorf("got %v, want %v", err, ErrAbsent)
	}
	nb.SetPeers([]key.Public{a.Public()})
	if err := na.Publish(t.Context(), b.Public(), []byte("x")); err != nil {
		t.Error(err)
	}
	if n := len(heard.Envelopes()); n != 1 {
		t.Errorf("got %d envelopes, want 1", n)
	}
}
