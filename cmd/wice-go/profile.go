package main

import (
	"fmt"
	"os"
	"runtime/pprof"
)

// profileEnv names the variable with the file that a daemon writes a CPU profile into, from its start to its end, for who asks where the time
// of a slow tunnel goes.
const profileEnv = "WICE_CPU_PROFILE"

// startProfile begins the profile if one is wanted. The returned function completes it.
func startProfile() (stop func(), err error) {
	name := os.Getenv(profileEnv)
	if name == "" {
		return func() {}, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", profileEnv, err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", profileEnv, err)
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}
