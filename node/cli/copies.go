package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) slotAddReplica() *cobra.Command {
	return a.changes(a.reads(a.verb("add-replica", []string{"SLOT", "NODE"}, "One more copy, filled while the slot serves", func(ctx context.Context, args []string) error {
		return a.copies(ctx, "add-replica", args, admin.CopiesRequest{Add: slot.NodeName(args[1])})
	})))
}

func (a *app) slotDropReplica() *cobra.Command {
	force := false
	c := a.changes(a.reads(a.verb("drop-replica", []string{"SLOT", "NODE"}, "One copy less; its files go when others hold all of it", func(ctx context.Context, args []string) error {
		return a.copies(ctx, "drop-replica", args, admin.CopiesRequest{Drop: slot.NodeName(args[1]), Force: force})
	})))
	c.Flags().BoolVar(&force, "force", false, "also when no healthy copy is left beside the master")
	return c
}

func (a *app) slotReplicas() *cobra.Command {
	force := false
	c := a.changes(a.reads(a.verb("replicas", []string{"SLOT", "COUNT"}, "So many copies beside the master, on nodes that are chosen", func(ctx context.Context, args []string) error {
		count, err := strconv.Atoi(args[1])
		if err != nil {
			return usage("replicas: %q is no number", clean(args[1]))
		}
		return a.copies(ctx, "replicas", args, admin.CopiesRequest{Count: &count, Force: force})
	})))
	c.Flags().BoolVar(&force, "force", false, "also when no healthy copy is left beside the master")
	return c
}

// copies shows what is to be done, asks, and has it recorded.
func (a *app) copies(ctx context.Context, verb string, args []string, r admin.CopiesRequest) error {
	id, err := slot.ParseID(args[0])
	if err != nil {
		return &admin.Error{Text: err.Error(), Exit: admin.ExitUsage, Next: "mailnode slot list"}
	}
	r.Slot = id
	p, err := a.client().PlanCopies(ctx, r)
	if err != nil {
		return err
	}
	if p.Exit != admin.ExitDone {
		return &admin.Error{Text: strings.Join(p.Lines, ";\n  "), Exit: p.Exit, Next: p.Next}
	}
	if err := a.showPlan(copiesLines(p.Lines)); err != nil {
		return err
	}
	again := fmt.Sprintf("mailnode slot %s %s %s", verb, id, args[1])
	if r.Force {
		again += " --force"
	}
	if err := a.agree("Do this?", again); err != nil {
		return err
	}
	done, err := a.client().ChangeCopies(ctx, r)
	if err != nil {
		return err
	}
	if a.asJSON {
		err = json.NewEncoder(a.out).Encode(done)
	} else if _, err = io.WriteString(a.out, copiesLines(done.Lines)); err == nil && done.Next != "" {
		a.say("next: %s", done.Next)
	}
	if done.Exit != admin.ExitDone {
		return exitCode(done.Exit)
	}
	return err
}

// copiesLines shows the first line, and what belongs to it below.
func copiesLines(lines []string) string {
	var b strings.Builder
	for i, line := range lines {
		indent := "  "
		if i == 0 || strings.HasPrefix(line, "add ") || strings.HasPrefix(line, "drop ") {
			indent = ""
		}
		b.WriteString(wrap(indent, clean(line)))
	}
	return b.String()
}
