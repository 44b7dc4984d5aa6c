//go:build race

package bind

// raceEnabled says that the race detector is on: it makes sync.Pool drop things, so that allocations can't be counted.
const raceEnabled = true
