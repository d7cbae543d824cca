package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

// TestUpgrade walks an upgrade as its operator sees it; the release that brings
// feature level 2 is made up.
func TestUpgrade(t *testing.T) {
	s := calm()
	s.level, s.known = 1, 2
	socket := s.serve(t)
	node := func(i int, release string, level slot.FeatureLevel) {
		s.status.Nodes = slices.Clone(s.status.Nodes)
		s.status.Nodes[i].Release, s.status.Nodes[i].Features = release, level
	}
	var b strings.Builder
	node(0, "2.0", 2)
	node(1, "1.4", 1)
	b.WriteString(transcript(t, socket, "cluster members", "cluster upgrade", "cluster upgrade --yes"))
	node(1, "2.0", 2)
	node(2, "2.0", 2)
	b.WriteString(transcript(t, socket, "cluster upgrade"))
	if len(s.orders) != 0 {
		t.Errorf("done unasked: %v", s.orders)
	}
	b.WriteString(transcript(t, socket, "cluster upgrade --yes", "cluster upgrade --yes", "cluster members --json"))
	golden(t, "upgrade.txt", b.String())
	if d := cmp.Diff([]any{admin.UpgradeRequest{From: 1, To: 2}}, s.orders); d != "" {
		t.Error(d)
	}
}
