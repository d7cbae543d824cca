package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"mailnode/node/admin"
	"mailnode/node/peer"
	"mailnode/raftfsm/cluster"
	"mailnode/storage/slot"
)

// firstStart is what `cluster init` or `cluster join` left in the data folder.
func (n *Node) firstStart() admin.FirstStart {
	f, err := admin.ReadFirstStart(n.cfg.Node.Data)
	if err != nil {
		n.log.Warn("first start", "err", err)
	}
	return f
}

// role is what this node's configuration makes of it.
func (n *Node) role() cluster.Role {
	if n.cfg.Node.Witness {
		return cluster.Witness
	}
	return cluster.Voter
}

// found makes the cluster at the first start of its first node.
func (n *Node) found(ctx context.Context) error {
	f := n.first
	if f.By != admin.ByInit || n.raft.Err() != nil || n.State().ClusterID != "" {
		return nil
	}
	if err := n.raft.Bootstrap(ctx); err != nil {
		n.log.Info("raft was bootstrapped before", "err", err)
	}
	for !n.raft.IsLeader() {
		if n.State().ClusterID != "" { // it was founded before, and a leader has filled this node
			return nil
		}
		select {
		case <-n.raft.Changed():
		case <-time.After(proposePause):
		case <-ctx.Done():
			return fmt.Errorf("found cluster: %w", ctx.Err())
		}
	}
	if err := n.raft.Barrier(ctx); err != nil || n.State().ClusterID != "" {
		return err
	}
	_, err := n.Propose(ctx, cluster.Init{ClusterID: n.id.ClusterID(), SlotCount: f.Slots, DefaultReplicas: f.Replicas, PlaceAt: f.Nodes,
		First: cluster.Member{Name: n.cfg.Node.Name, ServerID: n.raft.ServerID(), Addr: n.cfg.Node.PeerAdvertise, Key: n.id.KeyHash(),
			Zone: n.cfg.Node.Zone, Standby: n.cfg.Node.Standby, Role: n.role(), Features: n.features, Release: n.version}})
	var exists cluster.ErrExists
	if err != nil && !errors.As(err, &exists) { // an earlier try of unknown outcome was done after all
		return fmt.Errorf("found cluster: %w", err)
	}
	n.log.Info("cluster founded", "cluster", n.id.ClusterID(), "slots", f.Slots)
	return nil
}

// authorize implements peer.Authorizer. Any member that can reach the leader
// decides: the token is used up and the member added in one command. What no
// token admits is refused before it costs an entry of Raft's log.
func (n *Node) authorize(ctx context.Context, r peer.JoinRequest) (peer.JoinAccepted, error) {
	if n.leader() == "" {
		return peer.JoinAccepted{}, fmt.Errorf("this node knows no leader: %w", peer.ErrAskAnother)
	}
	c, err := n.joining(r)
	if err == nil {
		_, err = n.State().Clone().Apply(n.State().Index, c)
	}
	if err != nil { // perhaps this node has not heard of the token yet, or of an earlier try
		if err := n.currency.prove(ctx); err != nil {
			return peer.JoinAccepted{}, fmt.Errorf("ask the leader: %w (%w)", err, peer.ErrAskAnother)
		}
		if c, err = n.joining(r); err != nil {
			return peer.JoinAccepted{}, err
		}
		_, err = n.State().Clone().Apply(n.State().Index, c)
	}
	if err == nil {
		_, err = n.Propose(ctx, c)
	}
	switch cluster.OutcomeOf(err) {
	case cluster.Done, cluster.Unseen:
	case cluster.Refused:
		return peer.JoinAccepted{}, n.refusedJoin(r.Name, err)
	default: // asking again, anybody, changes nothing that was done
		return peer.JoinAccepted{}, fmt.Errorf("add node %q: %w (%w)", r.Name, err, peer.ErrAskAnother)
	}
	me, seen := n.State().Member(r.Name)
	if !seen {
		return peer.JoinAccepted{}, fmt.Errorf("node %q was added and is not seen here yet: %w", r.Name, peer.ErrAskAnother)
	}
	out := peer.JoinAccepted{Admits: me.Role == cluster.Voter}
	if r.Replace {
		out.Copies = n.copiesOf(r.Name)
	}
	for _, m := range n.State().Members {
		if m.Name != r.Name {
			out.Members = append(out.Members, peer.Member{Name: m.Name, Address: m.Addr})
		}
	}
	return out, nil
}

// refusedJoin says why a joiner stays outside, and what lets it in.
func (n *Node) refusedJoin(name slot.NodeName, err error) error {
	var notFound cluster.ErrNotFound
	var exists cluster.ErrExists
	switch {
	case errors.As(err, &exists) && n.State().Absent(name):
		return fmt.Errorf("%w; %s never came up: `mailnode cluster token %s` on a member makes another", err, name, name)
	case errors.As(err, &notFound):
		return fmt.Errorf("this token is not (or no longer) one for node %q: it was used, replaced or has expired: make one with `mailnode cluster token %s` on a member", name, name)
	case errors.As(err, &exists):
		return fmt.Errorf("%w; %s", err, memberAlready(name))
	}
	return err
}

// memberAlready says how another machine gets a name that is taken.
func memberAlready(name slot.NodeName) string {
	return fmt.Sprintf("if its machine or its disk is lost: `mailnode cluster token %s --replace` on a member, and `mailnode cluster join --replace %s` on the machine that takes its place", name, name)
}

const (
	tokenFor    = 24 * time.Hour // how long a token is good if nobody says otherwise
	tokenForMin = time.Minute
	// tokenAgeEvery is how often a leader takes what has passed from the tokens'
	// lives. A token lives that much longer than was asked, never shorter.
	tokenAgeEvery = time.Minute
)

// token makes a join token for a node.
func (n *Node) token(ctx context.Context, r admin.TokenRequest) (admin.Token, error) {
	left := time.Duration(r.ExpiresS) * time.Second
	if left == 0 {
		left = tokenFor
	}
	if err := peer.CheckName(r.Node); err != nil {
		return admin.Token{}, &admin.Error{Text: err.Error(), Exit: admin.ExitUsage}
	}
	if most := cluster.MaxTokenSeconds*time.Second - tokenAgeEvery; left < tokenForMin || left > most {
		return admin.Token{}, &admin.Error{Text: fmt.Sprintf("make token for %s: it cannot be for %s, but for %s to %s", r.Node, left, tokenForMin, most), Exit: admin.ExitUsage}
	}
	if err := n.needQuorum(ctx, "make token"); err != nil {
		return admin.Token{}, err
	}
	st := n.State()
	_, exists := st.Member(r.Node)
	former := slices.ContainsFunc(st.Former, func(f cluster.Former) bool { return f.Name == r.Node })
	switch {
	case r.Replace && !exists && !former: // a slip of the finger would make a new member
		return admin.Token{}, &admin.Error{Text: fmt.Sprintf("make token for another %s: there is no such member, and was none; there are: %s. A new one is let in without --replace", r.Node, namesOf(st.Members)), Exit: admin.ExitUsage, Next: "mailnode cluster members"}
	case exists && !st.Absent(r.Node):
		if !r.Replace {
			return admin.Token{}, &admin.Error{Text: fmt.Sprintf("make token for %s: it is a member already; %s", r.Node, memberAlready(r.Node)), Exit: admin.ExitRefused, Next: fmt.Sprintf("mailnode cluster token %s --replace", r.Node)}
		}
		if why, _ := n.lives(r.Node); why != "" {
			return admin.Token{}, &admin.Error{Text: fmt.Sprintf("make token for another %s: %s", r.Node, why), Exit: admin.ExitRefused, Next: "mailnode cluster members"}
		}
	}
	var seeds []string
	for _, m := range st.Members {
		if m.Name != r.Node && m.Role == cluster.Voter && len(seeds) < peer.SeedsMax { // the others cannot let it in
			seeds = append(seeds, m.Addr)
		}
	}
	printed, id, hash, err := peer.NewToken(n.id.ClusterID(), n.id.CAFingerprint(), seeds, r.Node)
	if err != nil {
		return admin.Token{}, err
	}
	err = n.order(ctx, cluster.AddToken{Token: cluster.Token{ID: id, Hash: hex.EncodeToString(hash[:]), Node: r.Node, LeftS: int64((left + tokenAgeEvery) / time.Second)}})
	return admin.Token{Node: r.Node, Token: printed, ExpiresS: int64(left / time.Second)}, err
}

// ageTokens lets the lives of tokens run, on this leader's monotonic clock (law
// 11). It returns up to when they have run. What passes without a leader, when
// nobody can join either, does not count; a change of leaders loses less than
// tokenAgeEvery.
func (n *Node) ageTokens(ctx context.Context, until time.Duration) time.Duration {
	now := n.clock.Mono()
	if now-until < tokenAgeEvery {
		return until
	}
	if len(n.State().Tokens) == 0 {
		return now
	}
	_, err := n.Propose(ctx, cluster.AgeTokens{Seconds: int64((now - until) / time.Second)})
	switch cluster.OutcomeOf(err) {
	case cluster.NotDone, cluster.Refused, cluster.Halted:
		n.log.Warn("age join tokens", "err", err)
		return until
	}
	return now // also when it is not known: the same time is never counted twice
}
