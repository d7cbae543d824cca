package node

import (
	"context"
	"errors"
	"net"

	"mailnode/imapd"
	"mailnode/node/peer"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/fair"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// Login implements imapd.Authenticator. A password is proved at the master of the
// user's home slot, over the connection that nodes have anyway; only a client that
// may come in is passed on.
func (n *Node) Login(ctx context.Context, user string, try storage.Attempt) (imapd.Grant, error) {
	a, err := slot.ParseAddress(user)
	if err != nil {
		return imapd.Grant{}, storage.Errorf(storage.ErrAuth, "wrong user name or password")
	}
	sl, err := n.home(a)
	if err != nil {
		return imapd.Grant{}, err
	}
	var grant imapd.Grant
	err = n.whileMoving(ctx, sl.ID, func() (err error) {
		grant, err = n.loginOnce(ctx, a, try)
		return err
	})
	return grant, err
}

func (n *Node) loginOnce(ctx context.Context, a slot.Address, try storage.Attempt) (imapd.Grant, error) {
	sl, err := n.home(a)
	if err != nil {
		return imapd.Grant{}, err
	}
	if sl.Master == n.cfg.Node.Name {
		return n.loginHere(ctx, sl.ID, a, try)
	}
	if err := n.loginAt(ctx, sl, a, try); err != nil {
		return imapd.Grant{}, err
	}
	return imapd.Grant{}, n.elsewhere(sl.Master)
}

// loginAt proves a password at another node.
func (n *Node) loginAt(ctx context.Context, sl cluster.Slot, a slot.Address, try storage.Attempt) error {
	client, err := n.peers.node(sl.Master)
	if err != nil {
		return storage.Errorf(storage.ErrUnavailable, "slot %s: %w", sl.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, accountWithin)
	defer cancel()
	r, err := client.Login(ctx, &rpc.LoginCall{Slot: uint32(sl.ID), Address: string(a), Password: []byte(try.Password), Client: try.Client})
	if err != nil {
		return storage.Errorf(storage.ErrUnavailable, "slot %s: no answer from its master %s: %w", sl.ID, sl.Master, err)
	}
	err = r.Failure.Err()
	if errors.Is(err, storage.ErrMoved) {
		err = noMaster(sl.ID)
	}
	if errors.Is(err, storage.ErrNotMaster) { // not this node's to say: it never was
		err = storage.Errorf(storage.ErrUnavailable, "%s", err)
	}
	if err != nil && r.Tried {
		err = storage.Errorf(storage.ErrAuth, "%w", err)
	}
	return err
}

// Login implements rpc.NodeServer.
func (s service) Login(ctx context.Context, in *rpc.LoginCall) (*rpc.LoginReply, error) {
	a, err := slot.ParseAddress(in.Address)
	if err == nil {
		_, err = s.n.loginHere(ctx, slot.ID(in.Slot), a, storage.Attempt{Password: string(in.Password), Client: in.Client})
	}
	return &rpc.LoginReply{Failure: rpc.Wrap(toCaller(err)), Tried: errors.Is(err, storage.ErrAuth)}, nil
}

// loginHere proves a password at this node's master of the user's home slot.
func (n *Node) loginHere(ctx context.Context, id slot.ID, a slot.Address, try storage.Attempt) (imapd.Grant, error) {
	m := n.copies.serving(id)
	if m == nil {
		return imapd.Grant{}, noMaster(id)
	}
	rec, err := m.Address(ctx, a)
	switch {
	case errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrUnavailable):
		return imapd.Grant{}, n.refuseUnknown(ctx, m, a, try, err)
	case err != nil:
		return imapd.Grant{}, n.certain(ctx, m, err)
	case rec.Slot != id: // the home slot points to where the account lives
		at, ok := n.State().Slot(rec.Slot)
		if !ok || at.Master == "" {
			return imapd.Grant{}, noMaster(rec.Slot)
		}
		if at.Master != n.cfg.Node.Name {
			return imapd.Grant{}, n.elsewhere(at.Master)
		}
		if m = n.copies.serving(rec.Slot); m == nil {
			return imapd.Grant{}, noMaster(rec.Slot)
		}
	}
	proved, err := m.Authenticate(ctx, rec.Account, try)
	if err != nil {
		return imapd.Grant{}, n.certain(ctx, m, err)
	}
	return imapd.Grant{Store: m, Account: rec.Account, Credential: proved}, nil
}

// refuseUnknown takes for an address that nobody has the work of a wrong password:
// one hash, then one proof that this node may say so. A client that tries addresses
// waits as one that tries passwords, and learns nothing from it (LAWS §7.4).
func (n *Node) refuseUnknown(ctx context.Context, m *local.Master, a slot.Address, try storage.Attempt, unknown error) error {
	wrong := n.passwords.Prove(ctx, fair.Asker{Client: try.Client, Account: string(a)}, "", try.Password)
	if !errors.Is(wrong, storage.ErrAuth) {
		return wrong
	}
	if err := n.certain(ctx, m, wrong); errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrNotMaster) {
		return err
	}
	if err := n.unknownOr(unknown, m.Slot()); errors.Is(err, storage.ErrUnavailable) {
		return err
	}
	return wrong
}

func (n *Node) elsewhere(master slot.NodeName) error {
	return &imapd.Elsewhere{Node: string(master), Dial: func(ctx context.Context) (net.Conn, error) {
		return n.dialPeer(ctx, peer.ProtoClient, master)
	}}
}
