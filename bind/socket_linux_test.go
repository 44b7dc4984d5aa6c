package bind

func disableGSO(s *socket) { s.gso.Store(false) }
