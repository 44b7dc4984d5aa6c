package device

import "strconv"

// hasPort reports whether a "listen_port=" of the UAPI asks for what is there: for the port that is open, or, being 0, for any. wireguard-go
// would close its sockets and open others, which costs packets, and all sessions would begin anew. Linux does nothing either where the port is
// the same; but "wg syncconf" asks for 0 whenever a file has no ListenPort, and then, too, what has not changed in the file is left alone.
func (d *Device) hasPort(value string) bool {
	port, err := strconv.ParseUint(value, 10, 16)
	open := d.bind.Port()
	return err == nil && open != 0 && (port == 0 || port == uint64(open))
}
