package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) clusterRecover() *cobra.Command {
	var names []string
	c := a.changes(a.reads(a.verb("recover", nil, "Go on without a majority that is lost for good; on a survivor", func(ctx context.Context, _ []string) error {
		var with []slot.NodeName
		again := "mailnode cluster recover"
		for _, n := range names {
			with = append(with, slot.NodeName(n))
			again += " --with " + n
		}
		r, err := a.client().Recovery(ctx, with)
		if err != nil {
			return err
		}
		if err := a.showPlan(narrowed(r.Text)); err != nil {
			return err
		}
		var lost []string
		for _, l := range r.Lost {
			lost = append(lost, string(l.Node))
		}
		if err := a.agree(fmt.Sprintf("Go on without %s?", strings.Join(lost, " and ")), again); err != nil {
			return err
		}
		out, err := a.client().Recover(ctx, admin.RecoverRequest{With: with, Generation: r.Generation})
		if err != nil {
			return err
		}
		return a.show(out, func() string { return narrowed(out.Text) })
	})))
	c.Flags().StringSliceVar(&names, "with", nil, "a node that is not heard now and is not lost; may be repeated")
	return c
}

// narrowed is a node's text in screenWidth columns; a command stays in one line.
func narrowed(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		if strings.HasPrefix(line, "  mailnode ") {
			b.WriteString(line + "\n")
			continue
		}
		b.WriteString(wrap(indent, clean(line)))
	}
	return b.String()
}
