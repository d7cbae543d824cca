package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/node/monitor"
	"mailnode/node/rpc"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/check"
	"mailnode/storage/local"
	"mailnode/storage/repl"
	"mailnode/storage/slot"
)

// audit is one look at everything that this node's copy of a slot has, and at
// how it differs from the others: an operator's, or the background scrub's.
type audit struct {
	k      *keeper
	s      *local.Slot // k's copy
	p      *job.Progress
	ctx    context.Context
	repair bool
	giveUp bool // what no copy has, at once: an operator said so

	found   int
	left    int   // findings that are not dealt with
	indexOK bool  // no finding is about the index or its records
	refetch bool  // this copy fetches the state again: once is enough
	lost    error // files of the index are damaged: it is rebuilt when all has been read
	// contradicts is what the records still say against each other after they were
	// computed again; nil before.
	contradicts map[string]bool
}

// line writes one finding.
func (a *audit) line(done bool, format string, args ...any) {
	a.found++
	if !done {
		a.left++
	}
	a.p.Finding(format, args...)
}

// run reads the copy and compares it.
func (a *audit) run(from uint32, reached func(pack uint32)) error {
	a.indexOK = true
	defer func() {
		if a.lost != nil {
			a.k.damageMet(local.Damage{Slot: a.k.id, Index: true, Err: a.lost})
		}
	}()
	if a.s = a.k.opened(); a.s == nil {
		return storage.Errorf(storage.ErrUnavailable, "audit slot %s: its copy here is not open: mailnode slot show %s", a.k.id, a.k.id)
	}
	if err := a.s.Failure(); err != nil {
		return fmt.Errorf("audit slot %s: %w: mailnode slot serve %s", a.k.id, err, a.k.id)
	}
	if err := a.s.Scrub(a.ctx, local.ScrubOptions{FromPack: from, Reached: reached, Spend: a.p.Spend, Found: a.finding,
		Total: func(n int64) { a.p.Total(n, 0) }}); err != nil {
		return err
	}
	if a.indexOK {
		a.k.mend.indexMended()
	}
	return a.compareAll()
}

// compareAll compares with the other copies, and keeps the condition about those
// that differ: it ends when all have been compared and none does.
func (a *audit) compareAll() error {
	a.p.At("compares with the other copies")
	var differ []string
	all := true
	for _, node := range a.k.others() {
		detail, compared, err := a.compare(node)
		if err != nil {
			return err
		}
		if all = all && compared; detail != "" {
			differ = append(differ, detail)
		}
	}
	if all || len(differ) > 0 {
		a.k.n.conditions.Put(len(differ) > 0, monitor.CopyDigestDiffers, a.k.id.String(), strings.Join(differ, "; "))
	}
	return nil
}

func (a *audit) finding(f local.ScrubFinding) {
	switch f.Kind {
	case local.BodyDamaged, local.BodyMissing:
		a.body(f)
	default:
		a.index(f)
	}
}

// body reports a damaged body under the name of each message that it concerns.
func (a *audit) body(f local.ScrubFinding) {
	what := "body damaged"
	if f.Kind == local.BodyMissing {
		what = "body missing"
	}
	fixed, did := false, "not repaired: --repair takes it from another copy"
	if a.repair {
		fixed, did = a.k.mend.now(a.ctx, f.Body, a.giveUp)
	}
	if len(f.Messages) == 0 {
		a.line(fixed, "%s of expunged mail, sha256 %s: %s", what, f.Body.GUID, did)
	}
	for _, n := range f.Messages {
		a.line(fixed, "%s: %s; %s", n, what, did)
	}
}

// index reports what is wrong with the index. A replica's is fetched again; the
// master's is rebuilt or counted again.
func (a *audit) index(f local.ScrubFinding) {
	a.indexOK = false
	text := f.Record.String()
	if f.Kind == local.IndexDamaged {
		text = f.Err.Error()
	}
	if f.Kind == local.IndexDamaged && !errors.Is(f.Err, storage.ErrCorrupt) {
		a.line(false, "index not read: %v; it is read again by the next audit", f.Err)
		return
	}
	lost := f.Kind == local.IndexDamaged && local.IndexLost(f.Err)
	fixed, did := false, "not repaired: mailnode slot audit "+a.k.id.String()+" --repair"
	switch {
	case !a.repair:
	case lost:
		fixed, did = a.rebuildHere(f.Err)
	default:
		if fixed, did = a.refetchHere(text); !fixed && f.Kind == local.RecordDiffers {
			fixed, did = a.recount(f)
		}
	}
	a.line(fixed, "%s; %s", text, did)
	_, _, follower := a.k.role.parts()
	switch {
	case fixed:
	case lost && a.rebuildMode() == "": // it is rebuilt when the slot has another master
		a.k.damageMet(local.Damage{Slot: a.k.id, Index: true, Err: f.Err})
	case lost:
		a.k.mend.report(local.Damage{Slot: a.k.id, Index: true, Err: f.Err})
	case a.repair || follower == nil: // a replica's mender would act on it: only with repair
		a.k.mend.report(local.Damage{Slot: a.k.id, Index: true, Err: errors.New(text)})
	}
}

// rebuildHere has this copy's index rebuilt: a state that is fetched into an
// index with damaged files leaves those files where they are.
func (a *audit) rebuildHere(cause error) (bool, string) {
	switch a.rebuildMode() {
	case local.Refill:
		a.lost = cause
		return true, "the index is rebuilt from the master: mailnode job list"
	case local.Alone:
		a.lost = cause
		return true, "the index is rebuilt from what is left of it and from the packs: mailnode job list"
	}
	return false, "not repaired: this copy is the master's, and a replica has what it lacks: " + a.k.serveElsewhere()
}

// rebuildMode says how the index may be rebuilt now, "" when it may not.
func (a *audit) rebuildMode() local.RebuildMode {
	sl, _ := a.k.n.raft.State().Slot(a.k.id)
	return a.k.rebuildMode(sl, "")
}

// serveElsewhere is how a slot is taken from a master that lives and has replicas.
func (k *keeper) serveElsewhere() string {
	to := slot.NodeName("NODE")
	if sl, ok := k.n.State().Slot(k.id); ok && len(sl.Replicas) > 0 {
		to = sl.Replicas[0]
	}
	return fmt.Sprintf("mailnode fo %s %s", k.id, to)
}

// refetchHere has this copy fetch its master's state, when it is a replica.
func (a *audit) refetchHere(why string) (bool, string) {
	_, _, follower := a.k.role.parts()
	if follower == nil {
		return false, "not repaired: this copy is the master's: " + a.k.serveElsewhere()
	}
	if !a.refetch {
		a.refetch = true
		follower.Refetch("audit: " + why)
	}
	return true, "this replica fetches the whole state from its master again"
}

// recount computes the derived records (quota use, counters, reference counts) of
// the master's copy again, once, and reports whether that has mended a finding.
func (a *audit) recount(f local.ScrubFinding) (bool, string) {
	if a.contradicts == nil {
		if _, err := a.s.Recount(a.ctx, local.Scope{}, local.RecountOptions{Spend: a.p.Spend}); err != nil {
			return false, fmt.Sprintf("not repaired: %v", err)
		}
		left := map[string]bool{}
		if err := a.s.Snapshot(func(x local.Snapshot) error {
			found, err := check.Run(x, check.Options{})
			for _, f := range found {
				left[f.String()] = true
			}
			return err
		}); err != nil {
			return false, fmt.Sprintf("not repaired: %v", err)
		}
		a.contradicts = left
	}
	if a.contradicts[f.Record.String()] {
		return false, "not repaired: " + a.k.serveElsewhere() + " (without replicas: mailnode slot reindex " + a.k.id.String() + " --from-packs)"
	}
	return true, "computed again from the messages"
}

// compareWithinAudit bounds one comparison with another copy.
const compareWithinAudit = 10 * time.Minute

// compare looks for differences with another copy, and returns in which mailboxes
// there are any. A replica compares with its master only: the master's copy is the
// one that counts.
func (a *audit) compare(node slot.NodeName) (differs string, compared bool, err error) {
	sl, _ := a.k.n.raft.State().Slot(a.k.id)
	_, feed, follower := a.k.role.parts()
	if feed == nil && node != sl.Master {
		return "", true, nil
	}
	ctx, cancel := context.WithTimeout(a.ctx, compareWithinAudit)
	defer cancel()
	conn, err := a.k.n.peers.conn(node)
	var c repl.Comparison
	if err == nil {
		c, err = repl.Compare(ctx, a.s, repl.NewReplicationClient(conn))
	}
	if a.ctx.Err() != nil {
		return "", false, a.ctx.Err()
	}
	if err != nil { // it is away, or being filled; its own node audits it
		a.k.log.Info("copies not compared", "with", node, "err", err)
		a.p.Finding("not compared with %s: %v", node, err)
		return "", false, nil
	}
	if !c.Differ() {
		return "", true, nil
	}
	fixed, did := false, "not repaired: --repair has the replica fetch the whole state again"
	switch {
	case feed != nil && !a.indexOK: // the replica may have what is right (law 7)
		did = "not repaired: the index here is damaged: " + a.k.serveElsewhere()
	case a.repair && feed != nil:
		feed.Refetch(node)
		fixed, did = true, fmt.Sprintf("%s fetches the whole state from this node again", node)
	case a.repair && follower != nil:
		fixed, did = a.refetchHere(fmt.Sprintf("it differs from %s", node))
	}
	if c.Rest {
		a.line(fixed, "accounts, addresses or subscriptions differ from %s's; %s", node, did)
	}
	for _, r := range c.Mailboxes {
		account, name := a.s.MailboxName(r)
		if account == "" {
			account = slot.Address(fmt.Sprintf("account %016x", uint64(r.Account)))
		}
		if name == "" {
			name = fmt.Sprintf("mailbox %016x", uint64(r.Mailbox))
		}
		a.line(fixed, "%s %s: differs from %s's copy; %s", account, name, node, did)
	}
	return a.k.differsIn(node, c), true, nil
}

// auditRateDefault is how fast an operator's audit reads, in bytes a second, as
// --rate has it.
const auditRateDefault = 50_000_000

// mending implements admin.Mending.
type mending struct{ n *Node }

// Audit implements admin.Mending.
func (b mending) Audit(_ context.Context, r admin.AuditRequest) (admin.Jobs, error) {
	ids := r.Slots
	if r.All {
		ids = nil
		for _, k := range b.n.copies.all() {
			ids = append(ids, k.id)
		}
		slices.Sort(ids)
	}
	if len(ids) == 0 {
		return admin.Jobs{}, &admin.Error{Text: "audit: this node has no copies", Exit: admin.ExitNothing, Next: "mailnode slot list"}
	}
	var keepers []*keeper
	for _, id := range ids {
		k, err := b.n.auditable(id)
		if err != nil && r.All {
			k = b.n.copies.keeper(id) // its job says why it cannot be read
		} else if err != nil {
			return admin.Jobs{}, err
		}
		keepers = append(keepers, k)
	}
	out := admin.Jobs{Jobs: []admin.Job{}}
	for _, k := range keepers {
		what := "packs, index and other copies"
		if r.Repair {
			what += ", with repair"
		}
		rate := r.RateBytesPerSec
		if rate == 0 {
			rate = auditRateDefault
		}
		j := b.n.jobs.Start(job.Spec{Kind: job.Audit, Slot: k.id.String(), What: what, By: r.By, RateBytesPerSec: rate, Alone: true},
			k.bounded(func(ctx context.Context, p *job.Progress) error { return auditJob(ctx, k, p, r.Repair) }))
		out.Jobs = append(out.Jobs, j.Status())
	}
	return out, nil
}

func auditJob(ctx context.Context, k *keeper, p *job.Progress, repair bool) error {
	a := &audit{k: k, p: p, ctx: ctx, repair: repair, giveUp: repair}
	if err := a.run(0, nil); err != nil {
		return err
	}
	if a.left == 0 {
		return nil
	}
	next := "mailnode slot show " + k.id.String()
	if !repair {
		next = "mailnode slot audit " + k.id.String() + " --repair"
	}
	return fmt.Errorf("audit slot %s: %d of %d findings left: %s", k.id, a.left, a.found, next)
}

// auditable returns this node's copy of a slot, or says who has one.
func (n *Node) auditable(id slot.ID) (*keeper, error) {
	sl, ok := n.State().Slot(id)
	if !ok {
		return nil, cluster.ErrNotFound{Kind: "slot", Name: id.String()}
	}
	k := n.copies.keeper(id)
	if k != nil && n.copies.slot(id) != nil {
		return k, nil
	}
	if !sl.Holds(n.cfg.Node.Name) {
		return nil, n.noCopy("audit", sl, id.String())
	}
	return nil, storage.Errorf(storage.ErrUnavailable, "audit slot %s: its copy on %s is not open: mailnode slot show %s", id, n.cfg.Node.Name, id)
}

// noCopy refuses what must be said on a node that has a copy: what is what the
// verb was given.
func (n *Node) noCopy(verb string, sl cluster.Slot, what string) error {
	if sl.Master == "" {
		return &admin.Error{Text: fmt.Sprintf("%s slot %s: it has no master yet", verb, sl.ID), Exit: admin.ExitRefused, Next: "mailnode status"}
	}
	var names []string
	for _, node := range append([]slot.NodeName{sl.Master}, sl.Replicas...) {
		names = append(names, string(node))
	}
	return &admin.Error{Text: fmt.Sprintf("%s slot %s: %s has no copy of it; copies are on %s", verb, sl.ID, n.cfg.Node.Name, strings.Join(names, " and ")),
		Exit: admin.ExitUsage, Next: fmt.Sprintf("ssh %s mailnode slot %s %s", names[0], verb, what)}
}

// Missing implements admin.Mending: it asks the masters.
func (b mending) Missing(ctx context.Context, only []slot.ID) (admin.MissingMessages, error) {
	out := admin.MissingMessages{Messages: []admin.MissingMessage{}}
	for _, id := range only {
		if _, ok := b.n.State().Slot(id); !ok {
			return out, cluster.ErrNotFound{Kind: "slot", Name: id.String()}
		}
	}
	var slots []cluster.Slot
	for _, sl := range b.n.State().Slots {
		if len(only) == 0 || slices.Contains(only, sl.ID) {
			slots = append(slots, sl)
		}
	}
	left := everySlot(ctx, b.n, slots, &rpc.AccountCall{Call: &rpc.AccountCall_Missing{Missing: &rpc.Empty{}}}, func(sl cluster.Slot, r *rpc.AccountReply) {
		for _, x := range r.Missing {
			out.Messages = append(out.Messages, admin.MissingMessage{Slot: sl.ID, Address: slot.Address(x.Address), Mailbox: x.Mailbox, UID: x.Uid,
				Bytes: x.Size, Date: time.Unix(x.InternalDateUnix, 0).UTC().Format(time.RFC3339), GUID: hex.EncodeToString(x.Guid), AgoS: x.AgoMs / 1000})
		}
	})
	// Masters answer in any order; slots are listed in theirs.
	slices.SortStableFunc(out.Messages, func(x, y admin.MissingMessage) int { return int(x.Slot) - int(y.Slot) })
	out.Unknown, out.Silent = left.slots, left.silent
	return out, nil
}
