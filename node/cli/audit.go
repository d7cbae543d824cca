package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/spf13/cobra"

	"mailnode/figures"
	"mailnode/node/admin"
	"mailnode/storage/slot"
)

func (a *app) slotAudit() *cobra.Command {
	all, repair, rate := false, false, ""
	c := a.reads(a.verb("audit", []string{"[SLOT]"}, "Read and prove this node's copies, compare them with the others", func(ctx context.Context, args []string) error {
		r := admin.AuditRequest{All: all, Repair: repair}
		if len(args) == 0 == !all {
			return usage("audit: name a slot, or write --all for every copy of this node")
		}
		for _, arg := range args {
			id, err := slot.ParseID(arg)
			if err != nil {
				return &admin.Error{Text: err.Error(), Exit: admin.ExitUsage, Next: "mailnode slot list"}
			}
			r.Slots = append(r.Slots, id)
		}
		var err error
		if r.RateBytesPerSec, err = parseRate(rate); err != nil {
			return err
		}
		if repair && !a.asJSON {
			a.say("what is damaged is taken from other copies; a message whose body none has is removed and listed as missing")
		}
		jobs, err := a.client().Audit(ctx, r)
		if err != nil {
			return err
		}
		return a.followAll(ctx, jobs.Jobs)
	}))
	c.Flags().BoolVar(&all, "all", false, "all copies of this node")
	c.Flags().BoolVar(&repair, "repair", false, "take what is damaged from another copy")
	c.Flags().StringVar(&rate, "rate", "50MB/s", "read at most so much")
	return c
}

// followAll follows jobs to their ends. The exit code is the worst of theirs.
func (a *app) followAll(ctx context.Context, jobs []admin.Job) error {
	worst := admin.ExitDone
	for _, j := range jobs {
		err := a.follow(ctx, j.ID)
		if len(jobs) == 1 {
			return err
		}
		var refusal *admin.Error
		if code := a.finish(err); code != admin.ExitDone {
			worst = code
		}
		if errors.As(err, &refusal) && refusal.Exit == admin.ExitRefused {
			return exitCode(worst) // Ctrl-C ends the watching of all
		}
	}
	if worst != admin.ExitDone {
		return exitCode(worst)
	}
	return nil
}

// parseRate reads "50MB/s", "800k", "1GiB/s" as bytes a second.
func parseRate(text string) (int64, error) {
	m := regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)\s*([kKMG]?)(i?)B?(?:/s)?$`).FindStringSubmatch(text)
	if m == nil {
		return 0, usage("--rate %q: write a rate such as 50MB/s", text)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, usage("--rate %q: %s", text, err)
	}
	step := 1000.0
	if m[3] == "i" {
		step = 1024
	}
	for range map[string]int{"": 0, "k": 1, "K": 1, "M": 2, "G": 3}[m[2]] {
		v *= step
	}
	if v < 1000 || v > 1e12 {
		return 0, usage("--rate %q: from 1kB/s to 1000GB/s", text)
	}
	return int64(v), nil
}

func (a *app) slotMissing() *cobra.Command {
	return a.reads(a.verb("missing", []string{"[SLOT]"}, "Messages that no copy has a body of", func(ctx context.Context, args []string) error {
		id := ""
		for _, arg := range args {
			if _, err := slot.ParseID(arg); err != nil {
				return &admin.Error{Text: err.Error(), Exit: admin.ExitUsage, Next: "mailnode slot list"}
			}
			id = arg
		}
		m, err := a.client().Missing(ctx, id)
		if err != nil {
			return err
		}
		return a.show(m, func() string { return missingScreen(m) })
	}))
}

func missingScreen(m admin.MissingMessages) string {
	text := "no message is missing\n"
	for i, x := range m.Messages {
		if i == 0 {
			text = ""
		}
		text += wrap("", fmt.Sprintf("%s %s uid %d, %s, of %s", x.Address, clean(x.Mailbox), x.UID, figures.Size(x.Bytes), x.Date))
		text += fmt.Sprintf("  in %s, gone for %s, sha256 %.16s…\n", x.Slot, age(x.AgoS), x.GUID)
	}
	if len(m.Messages) > 0 {
		text += wrap("", figures.Count(len(m.Messages), "message")+" removed: no copy has the body. Each is delivered again when a copy that has it returns. Whole sums: --json")
	}
	if len(m.Unknown) > 0 {
		text += "not asked, no master answers: " + slotRanges(m.Unknown) + waitedFor(m.Silent) + "\n"
	}
	return text
}
