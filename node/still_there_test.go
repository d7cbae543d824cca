package node

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"mailnode/node/admin"
	"mailnode/node/job"
	"mailnode/storage/slot"
)

// The folder of a slot is deleted under its running master: the node notices by
// itself, says what to do, and an audit of all copies does not pass over it.
func TestLaw01FolderDeletedUnderTheMaster(t *testing.T) {
	t.Parallel()
	s, master, _, _ := mendSite(t)
	if err := os.RemoveAll(master.slotDir("s000")); err != nil {
		t.Fatal(err)
	}
	s.eventually("the store has stopped", func(st admin.Status) bool { return !st.Slots[0].Serving })
	const next = "mailnode slot serve s000"
	d, err := master.admin.Slot(context.Background(), "s000")
	if err != nil || len(d.Copies) == 0 || !strings.Contains(strings.Join(d.Copies[0].SelfCheck, "\n"), "is gone") ||
		!strings.Contains(strings.Join(d.Copies[0].SelfCheck, "\n"), next) {
		t.Errorf("slot show: %+v, %v", d, err)
	}
	var refused *admin.Error
	if got, err := master.admin.Serve(context.Background(), admin.ServeRequest{Slot: 0}); !errors.As(err, &refused) || refused.Exit != admin.ExitRefused {
		t.Errorf("serve a slot whose folder is gone: %+v, %v, want exit 4", got, err)
	}
	if _, err := os.Stat(master.slotDir("s000")); !os.IsNotExist(err) {
		t.Errorf("an empty copy was begun in place of the one that is gone: %v", err)
	}
	jobs, err := master.admin.Audit(context.Background(), admin.AuditRequest{All: true})
	if err != nil || len(jobs.Jobs) != 1 {
		t.Fatalf("audit --all: %+v, %v", jobs, err)
	}
	until(t, "the audit ends", func() bool {
		got, err := master.admin.Job(context.Background(), jobs.Jobs[0].ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got.State == job.Done || got.State == job.Failed && !strings.HasSuffix(got.Error, next) {
			t.Fatalf("%+v", got)
		}
		return got.State == job.Failed
	})
	if _, err := master.admin.Missing(context.Background(), slot.ID(99).String()); err == nil {
		t.Error("missing messages of a slot that there is none of")
	}
}
