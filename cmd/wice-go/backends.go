package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/wice-go/wice-go/device"
	"github.com/wice-go/wice-go/device/config"
	"github.com/wice-go/wice-go/signal"
	"github.com/wice-go/wice-go/signal/libp2p"
)

// backendTable has every signaling backend that a Signaling line can name.
func backendTable() map[string]signal.Factory {
	return map[string]signal.Factory{
		"libp2p": libp2p.New,
	}
}

// backends turns Signaling lines into what the device needs: one backend a kind, with all of its lines.
func backends(lines []config.Signaling) ([]device.Backend, error) {
	table := backendTable()
	var list []device.Backend
	for _, line := range lines {
		factory, ok := table[line.Backend]
		if !ok {
			known := slices.Sorted(maps.Keys(table))
			return nil, fmt.Errorf("Signaling = %s: there is no backend %q; this build has: %s", line, line.Backend, strings.Join(known, ", "))
		}
		i := slices.IndexFunc(list, func(b device.Backend) bool { return b.Name == line.Backend })
		if i < 0 {
			i = len(list)
			list = append(list, device.Backend{Name: line.Backend, Factory: factory})
		}
		list[i].Lines = append(list[i].Lines, map[string][]string(line.Query))
	}
	return list, nil
}
