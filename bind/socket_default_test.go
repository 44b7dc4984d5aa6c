//go:build !linux || wice_portable

package bind

// knowsLocal says that the system tells at which address a packet arrived.
const knowsLocal = false

func disableGSO(*socket) {}
