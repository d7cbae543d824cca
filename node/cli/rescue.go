package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) rescue() *cobra.Command {
	return group("rescue", "What an old copy had alone: mail that is in no mailbox", a.rescueList(), a.rescueShow(), a.rescueDismiss())
}

func (a *app) rescueList() *cobra.Command {
	return a.reads(a.verb("list", nil, "All states that were set aside, on all nodes", func(ctx context.Context, _ []string) error {
		got, err := a.client().Asides(ctx)
		if err != nil {
			return err
		}
		return a.show(got, func() string { return asidesText(got) })
	}))
}

// Bounds of what `rescue show` lists of each state. The node's answer is read
// into memory on both sides, so that the greater one is a bound too.
const (
	asideLinesMax = 50
	asideRowsMax  = 200_000 // with --json
)

func (a *app) rescueShow() *cobra.Command {
	return a.reads(a.verb("show", []string{"SLOT|NAME"}, "Messages that a state has alone, with their Message-IDs", func(ctx context.Context, args []string) error {
		most := asideLinesMax
		if a.asJSON {
			most = asideRowsMax
		}
		got, err := a.client().Aside(ctx, args[0], most)
		if err != nil {
			return err
		}
		return a.show(got, func() string { return asideScreen(got, args[0]) })
	}))
}

// asidesText lists states, and what could not be asked.
func asidesText(got admin.Asides) string {
	var b strings.Builder
	if len(got.States) == 0 {
		b.WriteString("nothing is set aside")
		if len(got.Unknown) > 0 {
			b.WriteString(" as far as is known")
		}
		b.WriteString("\n")
	}
	for _, x := range got.States {
		b.WriteString(asideHead(x))
	}
	b.WriteString(unknownLines(got.Unknown))
	return b.String()
}

func unknownLines(list []string) string {
	var b strings.Builder
	for _, u := range list {
		b.WriteString(wrap("  ", "not known: "+clean(u)))
	}
	return b.String()
}

// asideHead says what a state is and what it has alone.
func asideHead(x admin.Aside) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s: %s\n", x.Slot, x.Node, clean(x.Name))
	since := "not known since when"
	if x.Since != "" {
		since = "since " + clean(x.Since)
	}
	was := "of a copy whose role is not known"
	if x.Was != "" {
		was = "of a former " + clean(x.Was)
	}
	b.WriteString(wrap("  ", fmt.Sprintf("%s, %s, ends at %s", since, was, x.Head)))
	switch c := x.Count; {
	case x.Trouble != "":
		b.WriteString(wrap("  ", "what it has alone is not known: "+clean(x.Trouble)))
	case c == nil:
		b.WriteString(wrap("  ", "what it has alone is not counted yet"))
	default:
		text := fmt.Sprintf("has alone: %s of %s in %s, %s", figures.Count(c.Messages, "message"), figures.Count(c.Users, "user"), figures.Count(c.Folders, "folder"), figures.Size(c.Bytes))
		if c.NewUsers+c.NewFolders > 0 {
			text += fmt.Sprintf("; %s and %s", figures.Count(c.NewUsers, "new user"), figures.Count(c.NewFolders, "new folder"))
		}
		if c.Changed > 0 {
			text += fmt.Sprintf("; %s with another password, quota or state: %s", figures.Count(c.Changed, "user"), clean(strings.Join(c.ChangedUsers, ", ")))
		}
		if c.NoBody > 0 {
			text += fmt.Sprintf("; the bodies of %d are not there", c.NoBody)
		}
		b.WriteString(wrap("  ", text))
	}
	for _, u := range x.Unread {
		b.WriteString(wrap("  ", "not read: "+clean(u)))
	}
	switch d := x.Dismissed; {
	case d != nil && d.Why != "":
		b.WriteString(wrap("  ", fmt.Sprintf("dismissed by %s, %s: %s", clean(d.By), clean(d.When), clean(d.Why))))
	case d != nil:
		b.WriteString(wrap("  ", fmt.Sprintf("dismissed by %s, %s", clean(d.By), clean(d.When))))
	case !x.Acknowledged:
		b.WriteString(wrap("  ", "never acknowledged: no client was told that it is kept"))
	}
	return b.String()
}

func asideScreen(got admin.Asides, what string) string {
	var b strings.Builder
	for _, x := range got.States {
		b.WriteString(asideHead(x))
		for _, m := range x.List {
			body := ""
			if !m.Body {
				body = ", its body is not there"
			}
			id := m.MessageID
			if id == "" {
				id = "no Message-ID"
			}
			fmt.Fprintf(&b, "    %s %s %d, %s, %s%s\n      %s\n", clean(string(m.Address)), clean(m.Mailbox), m.UID, clean(m.Date), figures.Size(m.Bytes), body, clean(id))
		}
		if x.Count != nil && x.Count.Messages > len(x.List) {
			fmt.Fprintf(&b, "    … and %d more: mailnode rescue show %s --json\n", x.Count.Messages-len(x.List), clean(what))
		}
	}
	b.WriteString(unknownLines(got.Unknown))
	return b.String()
}

func (a *app) rescueDismiss() *cobra.Command {
	why := ""
	c := a.changes(a.verb("dismiss", []string{"SLOT|NAME"}, "Say that a person has looked: nothing more will be done; deletes nothing", func(ctx context.Context, args []string) error {
		return a.dismiss(ctx, args[0], why)
	}))
	c.Flags().StringVar(&why, "why", "", "a reason for the history")
	return c
}

// dismiss closes a slot's open loss, and notes at what is set aside that a person
// has looked: of the slot, or what has that name.
func (a *app) dismiss(ctx context.Context, what, why string) error {
	loss := false
	var id slot.ID
	if !strings.HasPrefix(what, admin.AsidePrefix) {
		var err error
		if id, err = slot.ParseID(what); err != nil {
			return usage("%s", err)
		}
		d, err := a.client().Slot(ctx, what)
		if err != nil {
			return err
		}
		if loss = d.OpenLoss != ""; loss {
			a.say("%s: %s", id, d.OpenLoss)
			a.say("unknown users of %s get 550 again instead of 451;", id)
		}
	}
	all, err := a.client().Asides(ctx)
	if err != nil {
		return err
	}
	open := 0
	for _, x := range all.States {
		if x.Dismissed == nil && (x.Name == what || x.Slot.String() == what) {
			a.say("%s", strings.TrimSuffix(asideHead(x), "\n"))
			open++
		}
	}
	if !loss && open == 0 {
		text := fmt.Sprintf("nothing of %q is set aside that nobody has looked at", what)
		if !strings.HasPrefix(what, admin.AsidePrefix) {
			text = fmt.Sprintf("slot %s has no open loss, and nothing set aside that nobody has looked at", id)
		}
		if len(all.Unknown) > 0 {
			text += "; not known: " + strings.Join(all.Unknown, ", ")
		}
		return &admin.Error{Text: clean(text), Exit: admin.ExitNothing, Next: "mailnode rescue list"}
	}
	a.say("what was set aside stays in quarantine/ on its node")
	if err := a.agree("Give up what is missing?", "mailnode rescue dismiss "+what); err != nil {
		return err
	}
	if loss {
		if err := a.client().DismissLoss(ctx, admin.DismissLoss{Slot: id, Why: why}); err != nil {
			return err
		}
	}
	if open == 0 {
		return nil
	}
	got, err := a.client().DismissAside(ctx, admin.DismissAside{What: what, Why: why})
	if err != nil {
		return err
	}
	return a.dismissed(got, what, open)
}

// dismissed tells what could not be noted: that node must be asked again.
func (a *app) dismissed(got admin.Asides, what string, open int) error {
	done := 0
	for _, x := range got.States {
		if x.Dismissed != nil {
			done++
		} else {
			a.say("%s on %s stays open: %s", x.Slot, x.Node, clean(x.Trouble))
		}
	}
	if done >= open && len(got.Unknown) == 0 {
		return nil
	}
	text := fmt.Sprintf("%d of %d dismissed", done, open)
	if len(got.Unknown) > 0 {
		text += "; not known: " + strings.Join(got.Unknown, ", ")
	}
	return &admin.Error{Text: clean(text), Exit: admin.ExitRefused, Next: "mailnode rescue dismiss " + what}
}
