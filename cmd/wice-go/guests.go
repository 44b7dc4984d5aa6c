package main

import "sync"

// guests are the commands that use a daemon's tunnel. All methods are safe for concurrent use.
type guests struct {
	mu    sync.Mutex // guards the following
	count int
	empty func() // what is called once there are none; nil: nothing
}

// enter counts one more. The returned function, which is called once, takes it back.
func (g *guests) enter() (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.count--; g.count == 0 && g.empty != nil {
			g.empty()
		}
	}
}

// whenEmpty calls f once there are none, which may be now. F must not call back.
func (g *guests) whenEmpty(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.empty = f
	if g.count == 0 {
		f()
	}
}

func (g *guests) number() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}
