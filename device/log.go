package device

import (
	"context"
	"fmt"
	"log/slog"

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
