package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"mailnode/lmtpd"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/slot"
)

// home returns the slot that holds an address's record, and its owner.
func (n *Node) home(a slot.Address) (cluster.Slot, error) {
	st := n.State()
	if st.SlotCount == 0 {
		return cluster.Slot{}, storage.Errorf(storage.ErrUnavailable, "the cluster's state is not known on this node yet")
	}
	sl, ok := st.Slot(a.Home(st.SlotCount))
	if !ok || sl.Master == "" {
		return sl, noMaster(sl.ID)
	}
	return sl, nil
}

// accountWithin bounds an account call at another node: one that died without a
// word is noticed by keepalives only later, and clients wait.
const accountWithin = 8 * time.Second

// account runs an account call at the slot's master.
func (n *Node) account(ctx context.Context, id slot.ID, call *rpc.AccountCall) (*rpc.AccountReply, error) {
	sl, ok := n.State().Slot(id)
	if !ok || sl.Master == "" {
		return nil, noMaster(id)
	}
	call = &rpc.AccountCall{Slot: uint32(id), Address: call.Address, Call: call.Call}
	if sl.Master == n.cfg.Node.Name {
		m := n.copies.serving(id)
		if m == nil {
			return nil, noMaster(id)
		}
		r, err := runAccount(ctx, m, call)
		return r, n.certain(ctx, m, err)
	}
	client, err := n.peers.node(sl.Master)
	if err != nil {
		return nil, storage.Errorf(storage.ErrUnavailable, "slot %s: %w", id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, waitFor(call))
	defer cancel()
	r, err := client.Account(ctx, call)
	if err != nil {
		return nil, storage.Errorf(storage.ErrUnavailable, "slot %s: no answer from its master %s: %w%s", id, sl.Master, err, openOutcome(call))
	}
	return r, r.Failure.Err()
}

// Resolve implements lmtpd.Mail.
func (n *Node) Resolve(ctx context.Context, a slot.Address, bytes int64) (lmtpd.Recipient, error) {
	sl, err := n.home(a)
	if err != nil {
		return lmtpd.Recipient{}, err
	}
	var r lmtpd.Recipient
	err = n.whileMoving(ctx, sl.ID, func() (err error) {
		if sl, err = n.home(a); err != nil {
			return err
		}
		if sl.Master == n.cfg.Node.Name {
			r, err = n.resolveHere(ctx, sl.ID, a, bytes)
		} else {
			r, err = n.resolveAt(ctx, sl, a, bytes)
		}
		return err
	})
	return r, n.unknownOr(err, sl.ID)
}

// resolveHere resolves an address at this node's master of its home slot.
func (n *Node) resolveHere(ctx context.Context, id slot.ID, a slot.Address, bytes int64) (lmtpd.Recipient, error) {
	m := n.copies.serving(id)
	if m == nil {
		return lmtpd.Recipient{}, noMaster(id)
	}
	rec, err := m.Address(ctx, a)
	if err != nil {
		return lmtpd.Recipient{}, n.certain(ctx, m, err)
	}
	if rec.Slot == id { // else the message's own master tells, when it is delivered
		err = m.Fits(ctx, rec.Account, bytes)
	}
	return lmtpd.Recipient{Address: a, Account: rec.Account, Slot: rec.Slot}, err
}

// resolveAt resolves an address at another node.
func (n *Node) resolveAt(ctx context.Context, sl cluster.Slot, a slot.Address, bytes int64) (lmtpd.Recipient, error) {
	client, err := n.peers.node(sl.Master)
	if err != nil {
		return lmtpd.Recipient{}, storage.Errorf(storage.ErrUnavailable, "slot %s: %w", sl.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, cutOffAfter)
	defer cancel()
	r, err := client.Resolve(ctx, &rpc.ResolveCall{Slot: uint32(sl.ID), Address: string(a), Bytes: bytes})
	if err != nil {
		return lmtpd.Recipient{}, storage.Errorf(storage.ErrUnavailable, "slot %s: no answer from its master %s: %w", sl.ID, sl.Master, err)
	}
	err = r.Failure.Err()
	if errors.Is(err, storage.ErrMoved) {
		err = noMaster(sl.ID)
	}
	return lmtpd.Recipient{Address: a, Account: storage.AccountID(r.Account), Slot: slot.ID(r.Slot)}, err
}

// Resolve implements rpc.NodeServer.
func (s service) Resolve(ctx context.Context, in *rpc.ResolveCall) (*rpc.ResolveReply, error) {
	a, err := slot.ParseAddress(in.Address)
	if err != nil {
		return &rpc.ResolveReply{Failure: rpc.Wrap(storage.Errorf(storage.ErrInvalid, "%w", err))}, nil
	}
	r, err := s.n.resolveHere(ctx, slot.ID(in.Slot), a, in.Bytes)
	return &rpc.ResolveReply{Failure: rpc.Wrap(toCaller(err)), Account: uint64(r.Account), Slot: uint32(r.Slot)}, nil
}

// Deliver implements lmtpd.Mail: each slot's recipients at that slot's master.
func (n *Node) Deliver(ctx context.Context, body storage.Body, date time.Time, rcpts []lmtpd.Recipient) []error {
	began := n.clock.Mono()
	errs := make([]error, len(rcpts))
	bySlot := map[slot.ID][]int{}
	for i, r := range rcpts {
		bySlot[r.Slot] = append(bySlot[r.Slot], i)
	}
	var wg sync.WaitGroup
	for id, at := range bySlot {
		wg.Go(func() {
			d := storage.Delivery{Body: body, InternalDate: date}
			for _, i := range at {
				d.Recipients = append(d.Recipients, storage.Recipient{Account: rcpts[i].Account, Address: rcpts[i].Address})
			}
			for j, err := range n.deliver(ctx, id, d) {
				errs[at[j]] = n.unknownOr(err, id)
			}
		})
	}
	wg.Wait()
	n.metrics.DeliveryTook(n.clock.Mono() - began)
	return errs
}

// deliver delivers at a slot's master. When that changes meanwhile, those who have not
// got the message get it from the next one.
func (n *Node) deliver(ctx context.Context, id slot.ID, d storage.Delivery) []error {
	errs := make([]error, len(d.Recipients))
	left, rcpts := make([]int, len(errs)), d.Recipients
	for i := range left {
		left[i] = i
	}
	_ = n.whileMoving(ctx, id, func() (moved error) {
		d.Recipients = nil
		for _, i := range left {
			d.Recipients = append(d.Recipients, rcpts[i])
		}
		var again []int
		for j, err := range n.deliverOnce(ctx, id, d) {
			if errs[left[j]] = err; undone(err) {
				moved, again = err, append(again, left[j])
			}
		}
		left = again
		return moved
	})
	return errs
}

func (n *Node) deliverOnce(ctx context.Context, id slot.ID, d storage.Delivery) []error {
	sl, ok := n.State().Slot(id)
	var err error
	switch {
	case !ok || sl.Master == "":
		err = noMaster(id)
	case sl.Master == n.cfg.Node.Name:
		if m := n.copies.serving(id); m != nil {
			return m.Deliver(ctx, d)
		}
		err = noMaster(id)
	default:
		var out []error
		if out, err = n.deliverAt(ctx, sl.Master, id, d); err == nil {
			return out
		}
		err = storage.Errorf(storage.ErrUnavailable, "deliver to slot %s at %s: %w", id, sl.Master, err)
	}
	errs := make([]error, len(d.Recipients))
	for i := range errs {
		errs[i] = err
	}
	return errs
}

const deliverPartBytes = 256 << 10

// cutOffAfter is how long an MTA's question or message waits for a master that is
// not heard: what begins on the wrong side of a cut is put off within 5 s.
const cutOffAfter = 4 * time.Second

// whileHeard ends a context when a node has not been heard for cutOffAfter. A slow
// node reports all the while.
func (n *Node) whileHeard(ctx context.Context, node slot.NodeName) (context.Context, context.CancelFunc) {
	ctx, cut := context.WithCancelCause(ctx)
	began := n.clock.Mono()
	go func() {
		for wait := cutOffAfter; pause(ctx, wait); {
			at, _ := n.evidence.HeardAt(node)
			silent := n.clock.Mono() - max(at, began)
			if silent >= cutOffAfter {
				cut(fmt.Errorf("%s is not heard for %s", node, silent))
			}
			wait = cutOffAfter - silent
		}
	}()
	return ctx, func() { cut(context.Canceled) }
}

func (n *Node) deliverAt(ctx context.Context, master slot.NodeName, id slot.ID, d storage.Delivery) ([]error, error) {
	ctx, done := n.whileHeard(ctx, master)
	defer done()
	client, err := n.peers.node(master)
	if err != nil {
		return nil, err
	}
	stream, err := client.Deliver(ctx)
	if err != nil {
		return nil, err
	}
	guid := d.Body.GUID()
	part := &rpc.DeliverPart{Slot: uint32(id), DateUnix: d.InternalDate.Unix(), Guid: guid[:]}
	for _, r := range d.Recipients {
		part.Recipients = append(part.Recipients, &rpc.Recipient{Account: uint64(r.Account), Address: string(r.Address)})
	}
	for off := int64(0); ; {
		part.Data = make([]byte, min(deliverPartBytes, d.Body.Size()-off))
		if k, err := d.Body.ReadAt(part.Data, off); k < len(part.Data) {
			return nil, fmt.Errorf("read body: %w", err)
		}
		if err := stream.Send(part); err != nil && err != io.EOF {
			return nil, err
		}
		if off += int64(len(part.Data)); off >= d.Body.Size() {
			break
		}
		part = &rpc.DeliverPart{}
	}
	reply, err := stream.CloseAndRecv()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, err
	}
	if len(reply.Failures) != len(d.Recipients) {
		return nil, fmt.Errorf("%d answers for %d recipients", len(reply.Failures), len(d.Recipients))
	}
	out := make([]error, len(reply.Failures))
	for i, f := range reply.Failures {
		out[i] = f.Err()
	}
	return out, nil
}
