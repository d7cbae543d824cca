package local

type replicaHarness struct{}

func (r *replicaHarness) proveBuilding(p crashPoint, s *Slot) {}
