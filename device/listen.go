package device

import (
	"net"

	"github.com/wice-go/wice-go/device/control"
)

// ListenUAPI opens WireGuard's configuration socket at path, or on Windows its named pipe, for this user alone. Accept fails with
// [net.ErrClosed] once it is closed or, elsewhere than on Windows, its file is removed: that is how WireGuard's tools stop a daemon. The
// error wraps [control.ErrInUse] if a daemon answers there.
func ListenUAPI(path string) (net.Listener, error) {
	l, err := control.Listen(path)
	if err != nil {
		return nil, err
	}
	return closeOnRemoval(l, path)
}

// InheritUAPI is ListenUAPI for a socket that another process has opened at path, as wireguard-go does with WG_UAPI_FD.
func InheritUAPI(path string, fd int) (net.Listener, error) {
	l, err := control.Inherit(path, fd)
	if err != nil {
		return nil, err
	}
	return closeOnRemoval(l, path)
}
