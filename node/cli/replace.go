package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/node/config"
	"mailnode/node/peer"
	"mailnode/storage/slot"
)

// takePlace makes this machine the member of its name in the place of another. It says
// first what lies here: a disk that is not mounted is the mistake to be made.
func (a *app) takePlace(ctx context.Context, c config.Config, t peer.Token, token, file, tokenFile string, wipe bool) error {
	found, err := admin.FindCopies(c, t.Cluster)
	if err != nil {
		return err
	}
	a.say("taking the place of %s in cluster %s, reached at %s;", c.Node.Name, t.Cluster, c.Node.PeerAdvertise)
	a.say("the machine or folder that was %s is no member from then on", c.Node.Name)
	for _, line := range lying(found) {
		a.say("  %s", line)
	}
	question := "take its place?"
	switch {
	case wipe && len(found.Copies) > 0:
		a.say("--wipe DELETES these copies, but for those that no other node is known to have whole,")
		a.say("and those in which something is set aside")
		question = "delete them, and take its place?"
	case len(found.Halves()) > 0:
		a.say("what is not here is taken for lost and fetched from the others. Is every disk mounted?")
	}
	again := fmt.Sprintf("mailnode cluster join --replace %s --config %s --token-file %s", c.Node.Name, file, cmp.Or(tokenFile, "FILE"))
	if wipe {
		again += " --wipe"
	}
	if err := a.agree(question, again); err != nil {
		return err
	}
	r, err := admin.ReplaceNode(ctx, c, token, admin.ReplaceOptions{Wipe: wipe})
	if err != nil {
		return joinedBefore(err, file)
	}
	a.say("this machine is %s now", c.Node.Name)
	a.tookPlace(c.Node.Name, r)
	a.say("  next: mailnode serve --config %s", file)
	return nil
}

// lying says what the volumes have.
func lying(f admin.Found) []string {
	type part struct {
		v          config.Volume
		meta, data bool
	}
	count, order := map[part]int{}, []part{}
	for _, x := range f.Copies {
		p := part{x.Volume, x.Meta, x.Data}
		if count[p]++; count[p] == 1 {
			order = append(order, p)
		}
	}
	var out []string
	for _, p := range order {
		n := figures.Count(count[p], "slot")
		switch {
		case p.meta && p.data:
			out = append(out, fmt.Sprintf("%s: %s of this cluster", p.v, n))
		case p.meta:
			out = append(out, fmt.Sprintf("%s: %s, and NO BODIES in %s", p.v.Meta, n, p.v.Data))
		default:
			out = append(out, fmt.Sprintf("%s: bodies of %s, and NO INDEX in %s", p.v.Data, n, p.v.Meta))
		}
	}
	for _, v := range f.Empty {
		out = append(out, fmt.Sprintf("%s: no copy. Is its disk mounted?", v))
	}
	if len(out) == 0 {
		out = append(out, "no copy lies here: all are filled from the others")
	}
	return out
}

// tookPlace says what becomes of the copies.
func (a *app) tookPlace(name slot.NodeName, r admin.Replaced) {
	if len(r.Wiped) > 0 {
		a.say("  %s deleted", slots(r.Wiped))
	}
	if len(r.Kept) > 0 {
		a.say("  %s NOT deleted: no other node is known to have all that is in it", slots(r.Kept))
	}
	if len(r.Here) > len(r.Kept) {
		a.say("  %s of it lie here, and are kept", figures.Count(len(r.Here), "slot"))
	}
	if len(r.Missing) > 0 {
		a.say("  not here: %s. If a disk is not mounted, mount it before the next step; else the others fill them", slots(r.Missing))
	}
	if len(r.Idle) > 0 {
		a.say("  %s is master of %s, which it does not have: another copy of each is proposed: `mailnode failover list`", name, slots(r.Idle))
	}
}

// slots names slots, on a phone.
func slots(ids []slot.ID) string {
	const most = 8
	var names []string
	for _, id := range ids[:min(len(ids), most)] {
		names = append(names, id.String())
	}
	if more := len(ids) - most; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, " ")
}
