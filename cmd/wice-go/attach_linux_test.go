package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/proto/key"
)

// TestAttachingCounts has the command end that a daemon was started for, while another one is still making its namespace: the daemon stays for it.
func TestAttachingCounts(t *testing.T) {
	cfg := &config.Config{Interface: config.Interface{PrivateKey: key.NewPrivate(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}}}
	r := &running{name: "test", cfg: cfg, log: slog.New(slog.NewTextHandler(io.Discard, nil)), stop: make(chan struct{})}
	uapi, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = r.newTunnel(nil, uapi); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, f := range r.undo {
			f()
		}
	}()
	ctx, cancel := context.WithCancel(t.Context()) // of the other's request
	if _, err := (&daemon{r}).Network(ctx); err != nil {
		t.Fatal(err)
	}
	r.guests.whenEmpty(r.requestStop)
	select {
	case <-r.stop:
		t.Error("the daemon ends")
	default:
	}
	cancel()
	<-r.stop
}
