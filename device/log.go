package device

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
	wgdevice "golang.zx2c4.com/wireguard/device"
)

// wireguardLogger hands what wireguard-go says to log: its verbose lines at debug level, and costs nothing where that is off.
func wireguardLogger(log *slog.Logger) *wgdevice.Logger {
	to := func(level slog.Level) func(string, ...any) {
		if !log.Enabled(context.Background(), level) {
			return wgdevice.DiscardLogf
		}
		return func(format string, args ...any) {
			log.Log(context.Background(), level, fmt.Sprintf(format, args...), "layer", "wireguard")
		}
	}
	return &wgdevice.Logger{Verbosef: to(slog.LevelDebug), Errorf: to(slog.LevelError)}
}

// quiet is a pion logger that says nothing, for parts whose failures show elsewhere.
type quiet struct{}

var _ logging.LeveledLogger = quiet{}

func (quiet) Trace(string)          {}
func (quiet) Tracef(string, ...any) {}
func (quiet) Debug(string)          {}
func (quiet) Debugf(string, ...any) {}
func (quiet) Info(string)           {}
func (quiet) Infof(string, ...any)  {}
func (quiet) Warn(string)           {}
func (quiet) Warnf(string, ...any)  {}
func (quiet) Error(string)          {}
func (quiet) Errorf(string, ...any) {}
