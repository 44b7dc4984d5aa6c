package main

import (
	"slices"

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

// backends turns Signaling lines, whose backends are known to exist, into what the device needs: one backend a kind, with all of its
// lines.
func backends(lines []config.Signaling) []device.Backend {
	table := backendTable()
	var list []device.Backend
	for _, line := range lines {
		i := slices.IndexFunc(list, func(b device.Backend) bool { return b.Name == line.Backend })
		if i < 0 {
			i = len(list)
			list = append(list, device.Backend{Name: line.Backend, Factory: table[line.Backend]})
		}
		list[i].Lines = append(list[i].Lines, line.Query)
	}
	return list
}
