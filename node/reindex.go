package node

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"mailnode/node/admin"
	"mailnode/raftfsm/cluster"
	"mailnode/storage"
	"mailnode/storage/local"
	"mailnode/storage/slot"
)

// reindexer implements admin.Reindexing.
type reindexer struct{ n *Node }

// Reindex implements admin.Reindexing.
func (r reindexer) Reindex(ctx context.Context, q admin.ReindexRequest) (admin.Job, error) {
	k, sc, what, err := r.scope(q)
	if err != nil {
		return admin.Job{}, err
	}
	if !q.FromPacks {
		if r.n.copies.slot(k.id) == nil {
			return admin.Job{}, &admin.Error{Text: fmt.Sprintf("reindex slot %s: its copy here is not open", k.id), Exit: admin.ExitRefused,
				Next: fmt.Sprintf("mailnode slot reindex %s --from-packs", k.id)}
		}
		return k.recount(sc, what, q.By).Status(), nil
	}
	sl, _ := r.n.State().Slot(k.id)
	mode := k.rebuildMode(sl, "")
	switch {
	case sc != (local.Scope{}):
		return admin.Job{}, &admin.Error{Text: "--from-packs rebuilds the index of a whole slot", Exit: admin.ExitUsage}
	case q.Alone:
		if sl.Master != r.n.cfg.Node.Name {
			return admin.Job{}, &admin.Error{Text: fmt.Sprintf("reindex slot %s alone: %q is its master, not this node", k.id, sl.Master), Exit: admin.ExitRefused,
				Next: fmt.Sprintf("mailnode slot reindex %s --from-packs", k.id)}
		}
		mode = local.Alone
	case mode == "":
		return admin.Job{}, &admin.Error{Text: fmt.Sprintf("reindex slot %s: this node is its master, and its replicas know its mail better than its packs do; once it is a replica it is rebuilt by itself (--alone insists)", k.id),
			Exit: admin.ExitRefused, Next: k.serveElsewhere()}
	}
	return k.rebuild(mode, q.By).Status(), nil
}

// scope finds the copy and what of it is meant.
func (r reindexer) scope(q admin.ReindexRequest) (*keeper, local.Scope, string, error) {
	id, addr := q.Slot, slot.Address("")
	st := r.n.State()
	if q.Address != "" {
		addr = q.Address
		id = addr.Home(max(1, st.SlotCount))
	}
	for range 3 { // an account may have moved: its home slot says where to
		k := r.n.copies.keeper(id)
		if k == nil {
			sl, ok := st.Slot(id)
			if !ok {
				return nil, local.Scope{}, "", cluster.ErrNotFound{Kind: "slot", Name: id.String()}
			}
			return nil, local.Scope{}, "", r.n.noCopy("reindex", sl, strings.TrimSpace(cmp.Or(string(addr), id.String())+" "+q.Mailbox))
		}
		if addr == "" {
			return k, local.Scope{}, "derived records", nil
		}
		s := r.n.copies.slot(id)
		if s == nil {
			return nil, local.Scope{}, "", storage.Errorf(storage.ErrUnavailable, "reindex %s: the copy of slot %s here is not open", addr, id)
		}
		sc, in, err := s.Find(addr, q.Mailbox)
		if err != nil {
			return nil, sc, "", r.n.unknownOr(err, id)
		}
		if in == id {
			return k, sc, strings.TrimSpace(fmt.Sprintf("derived records of %s %s", addr, q.Mailbox)), nil
		}
		id = in
	}
	return nil, local.Scope{}, "", storage.Errorf(storage.ErrNotFound, "account %q: its slot points to another", addr)
}
