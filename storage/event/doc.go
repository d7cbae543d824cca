// Package event holds the replicated events of a slot, the records that they
// carry, where those records lie in the index (keys.go), the digests (law 8),
// and Apply: the one function, run by masters and replicas alike, that turns an
// event into changed records. It is pure: no clock, no I/O, no randomness.
//
// An event carries *resulting records*, never instructions. What Apply adds to
// them is derived from them: the name index, the change index, counters and
// digests. So any two copies that applied the same events have the same records.
package event
