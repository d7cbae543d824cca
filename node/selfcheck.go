package node

import (
	"errors"
	"slices"

	"mailnode/storage/local"
)

// clockDoubt says why this machine's wall clock cannot be right, "" when it can:
// as the first copy says that doubts it.
func (n *Node) clockDoubt() string {
	for _, k := range n.copies.all() {
		k.mu.Lock()
		s := k.copy
		k.mu.Unlock()
		if s != nil {
			if doubt := s.ClockDoubt(); doubt != "" {
				return doubt
			}
		}
	}
	return ""
}

// selfCheck gives the lines of the check that a copy made when it was opened,
// also of one that was refused.
func (k *keeper) selfCheck() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var checks []local.Check
	var refused *local.Refused
	switch {
	case k.copy != nil:
		checks = k.copy.Checks()
		if err := k.copy.Failure(); err != nil {
			checks = append(slices.Clone(checks), local.Check{Name: "now", State: local.CheckFailed,
				Text: err.Error() + ": when its slot is served elsewhere, systemctl restart mailnode"})
		}
	case errors.As(k.refused, &refused):
		checks = refused.Checks
	case k.refused != nil:
		checks = []local.Check{{Name: "volume", State: local.CheckFailed, Text: k.refused.Error()}}
	}
	var out []string
	for _, c := range checks {
		out = append(out, c.String())
	}
	return out
}
