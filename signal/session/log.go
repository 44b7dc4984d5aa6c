package session

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/pion/logging"
)

// loggerFactory gives what pion logs to slog, all of it at debug: pion warns of what is ordinary in a negotiation. Its trace
// level is left out: it has a line for each check.
type loggerFactory struct{ log *slog.Logger }

var _ logging.LoggerFactory = loggerFactory{}

func (f loggerFactory) NewLogger(scope string) logging.LeveledLogger {
	return logger{f.log.With("scope", scope)}
}

type logger struct{ log *slog.Logger }

func (l logger) print(msg string) { l.log.Debug(msg) }

func (l logger) printf(format string, args ...any) {
	if strings.Contains(format, "remotePwd") { // pion would print the peer's password
		return
	}
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (l logger) Trace(string)                   {}
func (l logger) Tracef(string, ...any)          {}
func (l logger) Debug(msg string)               { l.print(msg) }
func (l logger) Debugf(format string, a ...any) { l.printf(format, a...) }
func (l logger) Info(msg string)                { l.print(msg) }
func (l logger) Infof(format string, a ...any)  { l.printf(format, a...) }
func (l logger) Warn(msg string)                { l.print(msg) }
func (l logger) Warnf(format string, a ...any)  { l.printf(format, a...) }
func (l logger) Error(msg string)               { l.print(msg) }
func (l logger) Errorf(format string, a ...any) { l.printf(format, a...) }
