package device

import "net"

// closeOnRemoval has nothing to do: a pipe can't be removed by others.
func closeOnRemoval(l net.Listener, _ string) (net.Listener, error) { return l, nil }
