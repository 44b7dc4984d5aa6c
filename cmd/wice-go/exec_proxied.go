package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/tun/netstack"
)

// execProxied runs the command in the ordinary network, with proxies into the daemon's tunnel named in its environment. A kernel TUN needs none.
func (a *app) execProxied(ctx context.Context, client *control.Client, argv []string) (int, error) {
	status, err := client.Status(ctx)
	if err != nil {
		return 0, err
	}
	env := os.Environ()
	if status.Tun == config.TunNetstack.String() {
		proxies, end, err := client.Proxies(ctx)
		if err != nil {
			return 0, err
		}
		defer end.Close()
		env = append(env, proxyEnv(proxies)...)
	}
	return runCommand(argv, env)
}

// proxyEnv names proxies in the variables that programs look at: most at those in capitals, curl at http_proxy.
func proxyEnv(p control.Proxies) []string {
	address := func(scheme string, at netip.AddrPort) string {
		return (&url.URL{Scheme: scheme, User: url.UserPassword(p.User, p.Password), Host: at.String()}).String()
	}
	socks, http := address("socks5h", p.SOCKS5), address("http", p.HTTP)
	const direct = "localhost,127.0.0.0/8,::1"
	return []string{
		"ALL_PROXY=" + socks, "all_proxy=" + socks,
		"HTTP_PROXY=" + http, "http_proxy=" + http, "HTTPS_PROXY=" + http, "https_proxy=" + http,
		"NO_PROXY=" + direct, "no_proxy=" + direct,
	}
}

// runCommand runs a command to its end, passes signals on to it, and returns its exit code.
func runCommand(argv, env []string) (int, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 16)
	catchSignals(signals)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		code := 126
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code = 127
		}
		return 0, &exitError{code, err}
	}
	ended := make(chan struct{})
	defer close(ended)
	go passOn(signals, ended, cmd.Process.Signal)
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return 0, err
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// passOn passes signals on until the command has ended, but for those that the terminal has sent to it as well.
func passOn(signals <-chan os.Signal, ended <-chan struct{}, to func(os.Signal) error) {
	for {
		select {
		case s := <-signals:
			if (s == os.Interrupt || s == syscall.SIGQUIT) && inForeground() {
				continue
			}
			_ = to(s) // the command may have ended
		case <-ended:
			return
		}
	}
}

// Proxies implements [control.Daemon].
func (d *daemon) Proxies() (control.Proxies, io.Closer, error) {
	if d.stack == nil {
		return control.Proxies{}, nil, errors.New("the kernel's stack carries this tunnel: programs need no proxy")
	}
	p := control.Proxies{User: rand.Text(), Password: rand.Text()}
	options := netstack.ProxyOptions{Listen: "127.0.0.1:0", User: p.User, Password: p.Password, Logger: d.log}
	socks, err := d.stack.ServeSOCKS5(options)
	if err != nil {
		return p, nil, err
	}
	http, err := d.stack.ServeHTTPProxy(options)
	if err != nil {
		return p, nil, errors.Join(err, socks.Close())
	}
	p.SOCKS5, p.HTTP = netip.MustParseAddrPort(socks.Addr().String()), netip.MustParseAddrPort(http.Addr().String())
	leave := d.guests.enter()
	return p, closers{socks, http, closerFunc(func() error { leave(); return nil })}, nil
}

// closerFunc is a function as a Closer.
type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// closers are closed together.
type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
