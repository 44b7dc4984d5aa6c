package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// What one client may ask of the daemon. All clients have the same owner, so the bounds are for mistakes rather than attacks.
const (
	maxConns       = 64       // connections at once; more wait
	maxHeaderBytes = 16 << 10 // a request line and what curl adds
	maxBodyBytes   = 64 << 10 // the largest request is a PingRequest
	readTimeout    = 10 * time.Second
	idleTimeout    = time.Minute
	statusTimeout  = 10 * time.Second
	writeTimeout   = MaxPingTimeout + 30*time.Second
	closeTimeout   = 2 * time.Second // for the answers under way when the server closes

	defaultPingTimeout = 5 * time.Second
)

// Options configure a [Server].
type Options struct {
	Logger *slog.Logger // nil: nothing is logged

	// Tunnel returns the userspace stack, nil if the kernel's carries the tunnel. A nil function stands for that too.
	Tunnel func() Tunnel
}

// Server answers the commands that come in through a socket.
type Server struct {
	daemon  Daemon
	http    *http.Server
	log     *slog.Logger
	tunnel  func() Tunnel
	streams chan struct{}   // one for each connection through the daemon
	ctx     context.Context // ends them
	cancel  context.CancelFunc
	close   sync.Once
	closed  error
}

// NewServer makes a server for d. It serves nothing before [Server.Serve].
func NewServer(d Daemon, o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{daemon: d, log: o.Logger, tunnel: o.Tunnel, streams: make(chan struct{}, maxStreams)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/down", s.down)
	mux.HandleFunc("POST /v1/reload", s.reload)
	mux.HandleFunc("POST /v1/save", s.save)
	mux.HandleFunc("POST /v1/ping", s.ping)
	mux.HandleFunc("POST /v1/dial", s.dial)
	mux.HandleFunc("GET /v1/metrics", s.metrics)
	mux.HandleFunc("POST /v1/attach", s.attach)
	mux.HandleFunc("POST /v1/proxies", s.proxies)
	s.http = &http.Server{
		Handler:        http.MaxBytesHandler(mux, maxBodyBytes),
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		ConnContext:    func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:       slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers what comes in through l, normally from [Listen], until [Server.Close]; then it returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(limit(l, maxConns))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve control socket: %w", err)
}

// Close stops listening, lets answers under way finish for a moment, and ends the connections, those through the tunnel first. It is
// idempotent. A method of the [Daemon] must not call it and wait.
func (s *Server) Close() error {
	s.close.Do(func() {
		s.cancel()
		for range cap(s.streams) {
			s.streams <- struct{}{} // there will be no other
		}
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			s.closed = s.http.Close()
		}
	})
	return s.closed
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	st, err := s.daemon.Status(ctx)
	if err != nil {
		s.fail(w, err)
		return
	}
	s.reply(w, st)
}

func (s *Server) down(w http.ResponseWriter, r *http.Request) {
	if err := s.daemon.Down(r.Context()); err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Connection", "close")
	s.reply(w, struct{}{})
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	reloaded, err := s.daemon.Reload(r.Context())
	if err != nil {
		s.fail(w, err)
		return
	}
	s.reply(w, reloaded)
}

func (s *Server) save(w http.ResponseWriter, r *http.Request) {
	if err := s.daemon.Save(r.Context()); err != nil {
		s.fail(w, err)
		return
	}
	s.reply(w, struct{}{})
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	var req PingRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		s.write(w, http.StatusBadRequest, errorBody{Error: "read ping request: " + err.Error()})
		return
	}
	timeout := defaultPingTimeout
	if req.TimeoutMs > 0 {
		timeout = time.Duration(min(req.TimeoutMs, MaxPingTimeout.Milliseconds())) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	reply, err := s.daemon.Ping(ctx, req)
	if err != nil {
		s.fail(w, err)
		return
	}
	s.reply(w, reply)
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := s.daemon.Metrics(w); err != nil {
		s.log.Debug("write metrics", "error", err)
		s.fail(w, err) // sets the code only if nothing was written yet
	}
}

func (s *Server) reply(w http.ResponseWriter, v any) { s.write(w, http.StatusOK, v) }

func (s *Server) fail(w http.ResponseWriter, err error) {
	body, code := errorBody{Error: err.Error()}, http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrNoSuchPeer):
		body.Code, code = codeNoSuchPeer, http.StatusNotFound
	case errors.Is(err, ErrNoReply), errors.Is(err, context.DeadlineExceeded):
		body.Code, code = codeNoReply, http.StatusGatewayTimeout
	}
	s.write(w, code, body)
}

func (s *Server) write(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"error":"the answer can't be encoded"}`)
		s.log.Error("encode answer", "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if _, err := io.WriteString(w, string(b)+"\n"); err != nil {
		s.log.Debug("write answer", "error", err)
	}
}
