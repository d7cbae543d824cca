package raftfsm

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mailnode/raftfsm/cluster"
)

// TestReleaseTooOldForTheLevel: a node that goes back to an older release after
// the level was raised takes no part, however it learns of the level. What raises
// it is made up.
func TestReleaseTooOldForTheLevel(t *testing.T) {
	for name, forget := range map[string]struct{ known, log bool }{
		"from what it knew in its last run": {},
		"from the log":                      {known: true},
		"from a snapshot":                   {known: true, log: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, "n1", listenNew(t))
			cfg.Features = 3
			s := first(t, cfg)
			s.must(t, cluster.UpdateMember{Name: "n1", Features: 3, Release: "3.0"})
			res := s.must(t, cluster.RaiseFeatureLevel{From: 2, To: 3})
			until(t, "kept", func() bool {
				k, err := readKnown(s.Node.cfg.Memory.Dir)
				return err == nil && k != nil && k.Index >= res.Index
			})
			if forget.log {
				if err := s.raft.Snapshot().Error(); err != nil {
					t.Fatal(err)
				}
			}
			s.end(t)
			if forget.known {
				if err := os.Remove(filepath.Join(s.Node.cfg.Memory.Dir, knownName)); err != nil {
					t.Fatal(err)
				}
			}
			old := make(chan string, 4)
			cfg.Features, cfg.Transport, cfg.Addr = 2, listen(t, s.Node.cfg.Addr), s.Node.cfg.Addr
			cfg.OnCondition = func(name string, err error) {
				if err != nil {
					old <- name
				}
			}
			n, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-old:
				if got != ConditionLogNewer {
					t.Errorf("condition %q", got)
				}
			case <-time.After(10 * time.Second):
				t.Error("it takes part")
			}
			asHalted(t, n.Err(), ConditionLogNewer)
			if n.State().Features() != 3 {
				t.Error("its state cannot be read")
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := n.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}
