//go:build !linux || wice_portable

package bind

// knowsLocal says that the system tells at which address a packet arrived.
const knowsLocal = false

// joins says that the socket sends packets that the system joins.
const joins = false

func disableGSO(*socket) {}
