package tunnel

import (
	"maps"
	"slices"

	"github.com/wice-go/wice-go/device"
	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p"
)

// Backends returns a new table of every signaling backend that comes with wice-go, by the name that a Signaling line has for it.
func Backends() map[string]signal.Factory {
	return map[string]signal.Factory{
		"libp2p": libp2p.New,
	}
}

// backends turns the Signaling lines into what the device needs: one backend a kind, with all of its lines.
func backends(cfg *config.Config, table map[string]signal.Factory) ([]device.Backend, error) {
	if err := cfg.CheckBackends(slices.Sorted(maps.Keys(table))); err != nil {
		return nil, err
	}
	lines := cfg.Interface.Signaling
	if len(lines) == 0 {
		lines = config.DefaultSignaling()
	}
	var list []device.Backend
	for _, line := range lines {
		i := slices.IndexFunc(list, func(b device.Backend) bool { return b.Name == line.Backend })
		if i < 0 {
			i = len(list)
			list = append(list, device.Backend{Name: line.Backend, Factory: table[line.Backend]})
		}
		list[i].Lines = append(list[i].Lines, line.Query)
	}
	return list, nil
}
