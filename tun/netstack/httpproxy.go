package netstack

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strings"
	"time"
)

const (
	// maxProxyHeader bounds the header of a request to the HTTP proxy, in bytes.
	maxProxyHeader = 64 << 10

	// requestTimeout is how long nothing at all may come on a connection that is used for another plain request. Without it, one whose peer has
	// gone meanwhile would hang for a quarter of an hour.
	requestTimeout = 10 * time.Second

	// proxyKeepAlive is how long a connection is kept for another request, on both sides.
	proxyKeepAlive = time.Minute
)

// errBrokeOff is why a client is sent a reset.
var errBrokeOff = errors.New("the answer broke off")

// httpStatuses has the answer for each failure to connect.
var httpStatuses = map[failure]int{
	failedOther: http.StatusBadGateway, failedRoute: http.StatusForbidden, failedName: http.StatusBadGateway,
	failedRefusal: http.StatusBadGateway, failedTimeout: http.StatusGatewayTimeout,
}

// httpProxy is what package net/http serves: CONNECT, and requests with the whole URL of a plain HTTP server.
type httpProxy struct {
	*Proxy
	forward *httputil.ReverseProxy // removes what concerns one connection alone (RFC 9110 section 7.6.1)
}

// ServeHTTPProxy starts an HTTP proxy into the tunnel. Close ends it.
func (s *Stack) ServeHTTPProxy(o ProxyOptions) (*Proxy, error) {
	p, err := s.listenProxy("HTTP", o)
	if err != nil {
		return nil, err
	}
	h := &httpProxy{Proxy: p}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			c, err := p.dial(ctx, address)
			if err == nil {
				p.stack.keepAlive(c)
			}
			return c, err
		},
		DisableCompression:     true, // the client's matter
		MaxIdleConns:           maxProxied / 8,
		MaxIdleConnsPerHost:    maxProxied / 64,
		IdleConnTimeout:        proxyKeepAlive,
		MaxResponseHeaderBytes: maxProxyHeader,
	}
	// The library's own messages are of clients that went away, and of requests that were not HTTP.
	quiet := slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	h.forward = &httputil.ReverseProxy{
		Rewrite:       keepRequest,
		Transport:     transport,
		FlushInterval: -1, // at once
		ErrorHandler:  h.fail,
		ErrorLog:      quiet,
	}
	server := &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            p.opts.greeting,
		IdleTimeout:                  proxyKeepAlive,
		MaxHeaderBytes:               maxProxyHeader,
		ErrorLog:                     quiet,
		DisableGeneralOptionsHandler: true,
	}
	p.start(func() { server.Serve(proxyListener{p}) }, func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	return p, nil
}

// keepRequest undoes what a ReverseProxy, which stands in front of servers of its own, does to a request: this one says where to and what for.
func keepRequest(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = values
		}
	}
}

// proxyListener gives the clients of a proxy to a server.
type proxyListener struct{ p *Proxy }

func (l proxyListener) Accept() (net.Conn, error) {
	if c := l.p.accept(); c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l proxyListener) Close() error   { return l.p.listener.Close() }
func (l proxyListener) Addr() net.Addr { return l.p.listener.Addr() }

// ServeHTTP implements [http.Handler].
func (h *httpProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !h.admits(r):
		w.Header().Set("Proxy-Authenticate", `Basic realm="wice-go"`)
		http.Error(w, "wice-go: wrong user or password, or none", http.StatusProxyAuthRequired)
	case r.Method == http.MethodConnect:
		h.connect(w, r)
	case r.URL.Scheme == "http" && r.URL.Host != "":
		h.request(w, r)
	case r.URL.Host == "":
		http.Error(w, "wice-go: this is an HTTP proxy into a tunnel: it wants requests with a whole URL", http.StatusBadRequest)
	default:
		http.Error(w, "wice-go: only http: and CONNECT are supported", http.StatusNotImplemented)
	}
}

// admits reports whether a request has the user and password that it needs.
func (h *httpProxy) admits(r *http.Request) bool {
	if h.opts.User == "" {
		return true
	}
	kind, coded, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(coded))
	user, password, _ := strings.Cut(string(text), ":")
	return err == nil && strings.EqualFold(kind, "Basic") && h.opts.allows(user, password)
}

// request passes on a plain request. On a connection that was kept from an earlier one, it ends soon when the peer has gone meanwhile.
func (h *httpProxy) request(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	watched, stop := context.WithTimeout(ctx, h.opts.request)
	defer stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) {
			if c.Reused {
				before := h.stack.received(c.Conn) // now: the acknowledgement of the request may be all that comes
				go h.watch(watched, c.Conn, before, func(err error) { cancel(fmt.Errorf("%s: %w", r.URL.Host, err)) })
			}
		},
		GotFirstResponseByte: stop,
	})
	w.Header()["Content-Type"] = nil // where the server says none, none is made up
	defer func() {
		switch err := recover(); err {
		case nil:
		case http.ErrAbortHandler: // the answer broke off, which a client of HTTP/1.0 takes for its end unless it is a reset
			if in, _, err := http.NewResponseController(w).Hijack(); err == nil {
				h.stack.reset(errBrokeOff, in)
			}
		default:
			panic(err)
		}
	}()
	h.forward.ServeHTTP(w, r.WithContext(ctx))
}

// watch calls back when the peer of a connection, of which so many segments have come before, is known to be down, or has sent nothing until the
// deadline of ctx. An acknowledgement is enough: a server may take its time, and close its window meanwhile, which TCP's user timeout would take
// for silence. Of a connection that has ended it says nothing: the request may have another one now.
func (h *httpProxy) watch(ctx context.Context, c net.Conn, before uint64, gone func(error)) {
	start, peer := time.Now(), addrPort(c.RemoteAddr()).Addr()
	h.stack.watch(ctx, peer, downAfter, gone)
	<-ctx.Done()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && before != 0 && h.stack.received(c) == before {
		gone(h.stack.noAnswer(peer, start))
	}
}

// fail tells the client why there is no answer from beyond.
func (h *httpProxy) fail(w http.ResponseWriter, _ *http.Request, err error) {
	status := httpStatuses[failureOf(err)]
	http.Error(w, "wice-go: "+strings.ReplaceAll(err.Error(), "\n", "; "), status)
}

// connect makes a connection of a request, for whatever the client speaks.
func (h *httpProxy) connect(w http.ResponseWriter, r *http.Request) {
	if _, port, err := net.SplitHostPort(r.Host); err != nil || port == "" {
		http.Error(w, "wice-go: CONNECT wants HOST:PORT", http.StatusBadRequest)
		return
	}
	out, err := h.dial(r.Context(), r.Host)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.stack.reset(err, out)
		http.Error(w, "wice-go: CONNECT wants HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	defer in.Close()
	in.SetDeadline(time.Time{})
	// What the client sent without waiting has been read along with its request.
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	if _, err = fmt.Fprint(in, "HTTP/1.1 200 Connection established\r\n\r\n"); err == nil && len(early) > 0 {
		_, err = out.Write(early)
	}
	if err != nil {
		h.stack.reset(err, out)
		return
	}
	h.stack.carry(h.ctx, in, out)
}
