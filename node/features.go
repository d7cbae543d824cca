package node

import (
	"context"
	"fmt"
	"time"

	"mailnode/node/admin"
	"mailnode/node/monitor"
	"mailnode/raftfsm/cluster"
)

const declareEvery = 2 * time.Second

// declare keeps this node's member record true about its release, so that a
// person can see who is upgraded and raise the cluster's feature level.
func (n *Node) declare(ctx context.Context) {
	every(ctx, declareEvery, func() {
		st := n.State()
		for _, m := range st.Members {
			n.conditions.Put(m.Release != "" && m.Release != n.version && m.Name != n.cfg.Node.Name, monitor.VersionsDiffer, string(m.Name),
				fmt.Sprintf("it runs %s, this node %s", m.Release, n.version))
		}
		me, known := st.Member(n.cfg.Node.Name)
		if !known || me.Knows() == n.features && me.Release == n.version {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, dutyTimeout)
		defer cancel()
		_, err := n.Propose(ctx, cluster.UpdateMember{Name: me.Name, Features: n.features, Release: n.version})
		switch cluster.OutcomeOf(err) {
		case cluster.Done, cluster.Unseen:
			n.log.Info("this node has said what its release knows", "release", n.version, "features", n.features)
		case cluster.Refused:
			n.log.Error("this release is too old for the cluster: upgrade this node", "release", n.version, "err", err)
		default:
			n.log.Info("this node has not said yet what its release knows", "err", err)
		}
	})
}

// Upgrade implements admin.Cluster.
func (m members) Upgrade(ctx context.Context, r admin.UpgradeRequest) error {
	if err := m.n.needQuorum(ctx, "upgrade"); err != nil {
		return err
	}
	return m.n.order(ctx, cluster.RaiseFeatureLevel{From: r.From, To: r.To, By: r.By, WallTime: m.n.wallTime()})
}
