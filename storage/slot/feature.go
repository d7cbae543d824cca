package slot

// FeatureLevel says which kinds of records and commands may be written in a
// cluster: those that every member understands. A release knows all levels up to
// its own; the cluster's level is raised by a person when all members know the
// next (LAWS §5.9), and never falls. So a cluster is upgraded node by node,
// and no node meets what it cannot read.
type FeatureLevel uint32

// FirstFeatureLevel is that of the first release, and of a cluster whose level
// was never raised.
const FirstFeatureLevel FeatureLevel = 1

// OrFirst makes a level that is not recorded the first.
func (l FeatureLevel) OrFirst() FeatureLevel { return max(l, FirstFeatureLevel) }
