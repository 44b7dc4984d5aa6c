package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/mattn/go-isatty"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"github.com/wice-go/wice-go/device"
	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/device/control"
	"github.com/wice-go/wice-go/device/tunnel"
	"github.com/wice-go/wice-go/tun"
	"github.com/wice-go/wice-go/tun/netstack"
	"github.com/wice-go/wice-go/tun/share"
)

// notePostDown marks the commands in the journal that are to be run when the daemon died before it could run them. An empty one says that those
// before it were run: the journal may be kept for something else.
const notePostDown = "post-down"

// runForeground serves the interface as its file says until it is told to stop.
func (a *app) runForeground(ctx context.Context, name string, cfg *config.Config, f upFlags) error {
	level, err := a.logLevel(f.logLevel)
	if err != nil {
		return err
	}
	read := func() (*config.Config, []config.Warning, error) { return readConfig(cfg.File, f) }
	return a.serve(ctx, &running{name: name, cfg: cfg, read: read, flags: f}, level, f.readyFD != 0)
}

// serve sets an interface up and serves it until it is told to stop. The log goes to a file or to stderr.
func (a *app) serve(ctx context.Context, r *running, level slog.Level, logFile bool) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ready, err := openReadiness(r.flags.readyFD)
	if err != nil {
		return err
	}
	log, closeLog, err := a.openLog(r.name, level, logFile)
	if err != nil {
		return ready.fail(err)
	}
	defer closeLog()
	stopProfile, err := startProfile()
	if err != nil {
		return ready.fail(err)
	}
	defer stopProfile()
	r.app, r.log, r.ready, r.stop = a, log, ready, make(chan struct{})
	if r.flags.lifeFD != 0 {
		life := inherited(r.flags.lifeFD)
		defer life.Close()
		go func() {
			life.Read(make([]byte, 1)) // nobody writes
			r.guests.whenEmpty(r.requestStop)
		}()
	}
	err = r.run(ctx)
	if err != nil && r.flags.readyFD != 0 && !errors.Is(err, control.ErrInUse) { // that log is another daemon's; in the foreground it is printed at the end
		log.Error("stopped", "err", err)
	}
	return ready.fail(err)
}

// running is an interface from the first step of its set-up to the last of its removal. What each step did is undone in reverse order,
// whatever made it end.
type running struct {
	app   *app
	name  string
	cfg   *config.Config                                   // at the start; see config
	read  func() (*config.Config, []config.Warning, error) // the file again, with what wins over it
	flags upFlags
	log   *slog.Logger
	ready *readiness

	dropIn bool // others set the interface up

	undo   []func() error
	tun    *tunnel.Tunnel
	dev    *device.Device
	stack  *netstack.Stack // nil with a kernel TUN
	guests guests          // commands that use the tunnel
	inner  *share.Device   // what namespaces are attached to; nil where none can be
	stop   chan struct{}   // closed when a client asks for the end
	once   sync.Once

	configured *tun.Configured // nil with the userspace stack
	changing   sync.Mutex      // one reload or save at a time
	gaveUp     bool            // rights that were for the set-up; constant once the control socket answers

	outputs  sync.WaitGroup // readers of the commands' output
	leftover []io.Closer    // the outputs that outlive their commands
}

func (r *running) later(f func() error) { r.undo = append(r.undo, f) }

func (r *running) run(ctx context.Context) (err error) {
	hangUp := make(chan os.Signal, 1)
	if r.flags.readyFD != 0 || !isatty.IsTerminal(os.Stdin.Fd()) { // else it says that the terminal is gone, and ends the program
		signal.Notify(hangUp, syscall.SIGHUP)
		defer signal.Stop(hangUp)
	}
	defer r.endHooks()
	defer func() {
		for i := len(r.undo) - 1; i >= 0; i-- {
			if e := r.undo[i](); e != nil {
				err = errors.Join(err, e)
			}
		}
	}()
	setUp := r.setUp
	if r.dropIn {
		setUp = r.setUpDropIn
	}
	if err := setUp(ctx); err != nil {
		return err
	}
	r.log.Info("interface is up", "interface", r.name, "tun", r.tunKind())
	r.ready.ok(r.name)
	r.notify(sdnotify.SdNotifyReady)
	defer r.notify(sdnotify.SdNotifyStopping + "\nSTATUS=") // before anything is undone
	watchdog, stopWatchdog := r.watchdog()
	defer stopWatchdog()
	look, tell, stopTelling := r.teller(ctx)
	defer stopTelling()
	for {
		select {
		case <-watchdog:
			r.alive()
			continue
		case <-look:
			tell()
			continue
		case <-hangUp:
			if _, err := r.reload(); err != nil {
				r.log.Error("reload failed", "err", err)
			}
			continue
		case <-ctx.Done():
		case <-r.stop:
		case <-r.dev.Done():
			r.log.Info("the TUN is gone: stopping")
		}
		return nil
	}
}

// setUp follows the order of wg-quick: PreUp, link, keys and peers, addresses and routes, PostUp. Rights that were for this alone are dropped then.
func (r *running) setUp(ctx context.Context) error {
	i := &r.cfg.Interface
	serve, err := r.openControl()
	if err != nil {
		return err
	}
	uapi, err := device.ListenUAPI(r.app.paths.UAPISocket(r.name))
	if err != nil {
		return err
	}
	r.later(func() error { return ignoreClosed(uapi.Close()) })

	journal, err := r.openJournal(ctx)
	if err != nil {
		return err
	}
	if err := r.hooks(ctx, "PreUp", i.PreUp); err != nil {
		return err
	}
	if len(i.PostDown) > 0 {
		for _, command := range i.PostDown {
			if err := journal.Note(notePostDown, command); err != nil {
				return err
			}
		}
		r.later(func() error {
			return errors.Join(r.hooks(context.Background(), "PostDown", i.PostDown), journal.Note(notePostDown, ""))
		})
	}
	kernel, err := r.openTun()
	if err != nil {
		return err
	}
	t, serveUAPI, err := r.newTunnel(kernel, uapi)
	if err != nil {
		return err
	}
	r.later(func() error {
		if r.config().Interface.SaveConfig {
			return r.saveConfig()
		}
		return nil
	})
	mark := i.FwMark
	if r.stack == nil {
		r.dev.ResolveEndpoints(ctx) // before there are routes into the tunnel
		if mark, err = r.configure(journal); err != nil {
			return err
		}
	}
	if err = t.Up(mark); err != nil {
		return err
	}
	serveUAPI()
	r.checkForwards()
	r.checkProxies()
	if err := r.hooks(ctx, "PostUp", i.PostUp); err != nil {
		return err
	}
	if len(i.PreDown) > 0 {
		r.later(func() error { return r.hooks(context.Background(), "PreDown", i.PreDown) })
	}
	r.dropRights()
	serve()
	return nil
}

// newTunnel makes the tunnel of a device of the kernel's, or else of a userspace stack, and has it closed at the end. The returned function
// begins to serve the UAPI.
func (r *running) newTunnel(kernel wgtun.Device, uapi net.Listener) (t *tunnel.Tunnel, serveUAPI func(), err error) {
	t, err = tunnel.New(tunnel.Options{
		Name:            r.name,
		Config:          r.cfg,
		Device:          kernel,
		DropIn:          r.dropIn,
		Ping:            kernelPing,
		Wrap:            func(dev wgtun.Device) wgtun.Device { return r.share(dev, kernel != nil) },
		IncludeLoopback: r.flags.loopback,
		Logger:          r.log,
	})
	if err != nil {
		return nil, nil, err
	}
	r.tun, r.dev, r.stack = t, t.Device(), t.Stack()
	var serving sync.WaitGroup
	r.later(func() error {
		t.Close()
		uapi.Close()
		serving.Wait()
		return nil
	})
	return t, func() {
		serving.Go(func() {
			r.dev.ServeUAPI(uapi)
			r.requestStop() // the socket was removed
		})
	}, nil
}

// saveConfig writes the state of the interface into its file, for SaveConfig.
func (r *running) saveConfig() error {
	if r.dropIn {
		return fmt.Errorf("%s was set up by other tools, not from a file: use theirs (wg-quick save)", r.name)
	}
	state, err := r.dev.UAPIState()
	if err != nil {
		return err
	}
	cfg := *r.config() // the running one stays as it is
	if err := cfg.Update(state); err != nil {
		return fmt.Errorf("save %s: %w", cfg.File, err)
	}
	return r.forLackOfRights(cfg.SaveFile(cfg.File))
}

// openJournal takes back what a daemon of this interface left behind that died, and starts a new journal.
func (r *running) openJournal(ctx context.Context) (*tun.Journal, error) {
	path := r.app.paths.Journal(r.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the control socket: %w", err)
	}
	notes, err := tun.Notes(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	if err := tun.Recover(path); err != nil {
		return nil, fmt.Errorf("undo what the last daemon of %s left: %w", r.name, err)
	}
	for _, command := range leftCommands(notes) {
		r.log.Info("the last daemon died before its PostDown: running it now", "command", command)
		if err := r.hooks(ctx, "PostDown", []string{command}); err != nil {
			r.log.Warn("PostDown of the last daemon failed", "err", err)
		}
	}
	journal, err := tun.OpenJournal(path)
	if err != nil {
		return nil, err
	}
	r.later(journal.Close)
	return journal, nil
}

// leftCommands are those of the notes that were not run.
func leftCommands(notes []tun.Note) (commands []string) {
	for _, n := range notes {
		switch {
		case n.Kind != notePostDown:
		case n.Value == "":
			commands = nil
		default:
			commands = append(commands, n.Value)
		}
	}
	return commands
}

// openTun opens the kernel's TUN. It returns nil where a userspace stack is wanted, or the kernel's is not permitted.
func (r *running) openTun() (wgtun.Device, error) {
	i := &r.cfg.Interface
	mode := i.Tun
	if mode == config.TunAuto {
		mode = config.TunKernel
		if err := tun.CanCreate(); err != nil {
			r.log.Info("no kernel TUN here: the userspace stack carries the tunnel", "cause", err)
			r.ready.say("no kernel TUN here (%v): the userspace stack carries the tunnel; set \"#!wice Tun = netstack\" to choose it silently", err)
			mode = config.TunNetstack
		}
	}
	if mode == config.TunKernel {
		dev, err := tun.Open(r.name, i.MTU)
		if errors.Is(err, tun.ErrPermission) {
			return nil, fmt.Errorf("%w; without it the userspace stack can carry the tunnel: --tun netstack", err)
		}
		if err != nil {
			return nil, err
		}
		if name, err := dev.Name(); err == nil {
			r.name = name
		}
		return dev, nil
	}
	return nil, nil
}

func (r *running) tunKind() string {
	if r.stack != nil {
		return config.TunNetstack.String()
	}
	return config.TunKernel.String()
}

// configure sets addresses, routes and DNS of a kernel TUN, and returns the mark that the underlay's sockets must carry.
func (r *running) configure(journal *tun.Journal) (uint32, error) {
	i := &r.cfg.Interface
	c := tun.Config{Addresses: i.Addresses, MTU: i.MTU, DNS: i.DNS, SearchDomains: i.SearchDomains, FwMark: i.FwMark}
	var err error
	if c.Table, err = tun.ParseTable(i.Table.String()); err != nil {
		return 0, err
	}
	c.Routes = allowedIPs(r.cfg)
	configured, err := tun.Configure(r.name, c, journal)
	if err != nil {
		return 0, err
	}
	r.configured = configured
	r.later(configured.Close)
	for _, w := range configured.Warnings() {
		r.log.Warn("not everything could be set up", "err", w)
		r.ready.say("%v", w)
	}
	return configured.FwMark(), nil
}

// checkForwards says of the Forward lines that they mean nothing with a kernel TUN.
func (r *running) checkForwards() {
	if r.stack != nil {
		return
	}
	for _, f := range r.config().Interface.Forwards {
		const why = "Forward is for the userspace stack; with a kernel TUN every program reaches the tunnel"
		r.log.Warn(why, "forward", f.String())
		r.ready.say("Forward = %s is left out: %s", f, why)
	}
}

// openControl makes the control socket, which is the lock of the interface too: it is the first thing made and the last one closed. It
// answers once the returned function is called.
func (r *running) openControl() (serve func(), err error) {
	l, err := control.Listen(r.app.paths.ControlSocket(r.name))
	if errors.Is(err, control.ErrInUse) {
		return nil, fmt.Errorf("%s is up already (%w); to stop it: wice-go down %s", r.name, err, r.name)
	}
	if err != nil {
		return nil, err
	}
	server := control.NewServer(&daemon{running: r}, control.Options{Logger: r.log, Tunnel: r.tunnel})
	var serving sync.WaitGroup
	r.later(func() error {
		err := errors.Join(server.Close(), ignoreClosed(l.Close()))
		serving.Wait()
		return err
	})
	return func() {
		serving.Go(func() {
			if err := server.Serve(l); err != nil {
				r.log.Error("control socket failed", "err", err)
				r.requestStop()
			}
		})
	}, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (r *running) requestStop() { r.once.Do(func() { close(r.stop) }) }

// daemon is what the control socket serves.
type daemon struct{ *running }

var _ control.Daemon = (*daemon)(nil)

// Status implements [control.Daemon].
func (d *daemon) Status(ctx context.Context) (*control.Status, error) {
	s, err := d.dev.Status(ctx)
	if err == nil {
		s.Commands = d.guests.number()
	}
	return s, err
}

// Ping implements [control.Daemon].
func (d *daemon) Ping(ctx context.Context, r control.PingRequest) (control.PingReply, error) {
	return d.dev.Ping(ctx, r)
}

// Metrics implements [control.Daemon].
func (d *daemon) Metrics(w io.Writer) error { return d.dev.Metrics(w) }

// Down implements [control.Daemon].
func (d *daemon) Down(context.Context) error {
	d.requestStop()
	return nil
}
