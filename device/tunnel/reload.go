package tunnel

import (
	"errors"
	"net"

	"github.com/wice-go/wice-go/device/config"
)

// Reload makes the running tunnel what the configuration says, and leaves alone what does not differ: see [device.Device.Reload]. Forwards
// and proxies that are others than before are closed, with their connections, and served anew. It returns after the changes; the configuration
// is not to be changed from then on. The routes and the mark of a tunnel with Options.Device are the caller's.
func (t *Tunnel) Reload(file *config.Config) (*config.Reload, error) {
	if t.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	t.reloading.Lock()
	defer t.reloading.Unlock()
	plan, err := t.dev.Reload(file)
	if plan == nil || t.stack == nil {
		return plan, err
	}
	return plan, errors.Join(err, t.serve(&plan.Config.Interface))
}
