package node

import (
	"context"
	"sync"

	"mailnode/raftfsm/cluster"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

func (k *keeper) follow(ctx context.Context, sl cluster.Slot, term uint64) error {
	if err := k.knowsEpoch(ctx); err != nil {
		return err
	}
	conn, err := k.n.peers.conn(sl.Master)
	if err != nil {
		return err
	}
	f := repl.NewFollower(repl.FollowerOptions{
		Slot: k.opened(), Node: k.n.cfg.Node.Name, Master: sl.Master, Epoch: sl.Epoch, Client: repl.NewReplicationClient(conn),
		Spool: k.n.spool, Clock: k.n.clock, Logger: k.n.log, OnFenced: k.wake, OnSetAside: k.setAside,
		Others: k.clientsBeside(sl.Master), Fill: k.filledFrom(sl.Master), OnEnded: func(error) { k.n.metrics.StreamEnded(k.id) },
	})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	taken := make(chan struct{}) // it acknowledges nothing before whoever ends the role would wait for it
	wg.Go(func() {
		select {
		case <-taken:
			f.Run(ctx)
		case <-ctx.Done():
		}
	})
	if err := k.role.take(term, roleParts{follower: f, leave: func() { cancel(); wg.Wait() }}); err != nil {
		return err
	}
	close(taken)
	return nil
}

// knowsEpoch has a copy that knows of no promise ask a leader first: an earlier one that lay
// here may have been asked under a higher epoch than this node's Raft has yet (law 1).
func (k *keeper) knowsEpoch(ctx context.Context) error {
	s := k.opened()
	head, err := s.Head()
	if err != nil || head.Position > 0 {
		return err
	}
	promised, err := s.Promised()
	if err != nil || promised > 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	return k.n.Fresh(ctx)
}

// clientsBeside returns the copies beside this one and the master's.
func (k *keeper) clientsBeside(master slot.NodeName) func() []repl.ReplicationClient {
	return func() (out []repl.ReplicationClient) {
		for _, node := range k.others() {
			if node == master {
				continue
			}
			if conn, err := k.n.peers.conn(node); err == nil {
				out = append(out, repl.NewReplicationClient(conn))
			}
		}
		return out
	}
}

// setAside is told of a state that a copy has just set aside.
func (k *keeper) setAside(name string) {
	s := k.opened()
	if s == nil {
		return
	}
	if k.n.lossOf(k.id) {
		k.n.logErr("note accepted loss", s.NoteLoss(name))
	}
	k.n.asides.look(k.id, s)
}
