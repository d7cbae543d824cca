package monitor

import (
	"slices"
	"strings"
)

// Name names a condition. The list below is closed; docs/CONDITIONS.md is made
// from it.
type Name string

// The names of all conditions.
const (
	NodeSilent         Name = "node-silent"
	SlotMoving         Name = "slot-moving"
	MovesWait          Name = "moves-wait"
	MoveGivenUp        Name = "move-given-up"
	ReplicaMissing     Name = "replica-missing"
	SlotUnprotected    Name = "slot-unprotected"
	SlotNoReplicas     Name = "slot-no-replicas"
	ReplicaLagPage     Name = "replica-lag-page"
	SlotNoMaster       Name = "slot-no-master"
	SlotRefused        Name = "slot-refused"
	SlotFailed         Name = "slot-failed"
	SlotHangs          Name = "slot-hangs"
	SlotNoRoom         Name = "slot-no-room"
	SlotOpening        Name = "slot-opening"
	RaftStoreFailed    Name = "raft-store-failed"
	RaftNoQuorum       Name = "raft-no-quorum"
	SlotsFenced        Name = "slots-fenced"
	SlotsUnassigned    Name = "slots-unassigned"
	RaftLogNewer       Name = "raft-log-newer"
	RaftRemoved        Name = "raft-removed"
	RaftSnapshotFailed Name = "raft-snapshot-failed"
	RaftNoRoom         Name = "raft-no-room"
	RaftLogCorrupt     Name = "raft-log-corrupt"
	DiskFull           Name = "disk-full"
	DiskStrained       Name = "disk-strained"
	CopyDiverged       Name = "copy-diverged"
	CopyBuilding       Name = "copy-building"
	CopyDropped        Name = "copy-dropped"
	ReplicaLeaving     Name = "replica-leaving"
	CopyDigestDiffers  Name = "copy-digest-differs"
	EventQuarantined   Name = "event-quarantined"
	MessageMissing     Name = "message-missing"
	BodyDamaged        Name = "body-damaged"
	IndexDamaged       Name = "index-damaged"
	SlotFileMended     Name = "slot-file-mended"
	SlotReindexed      Name = "slot-reindexed"
	OpenLoss           Name = "open-loss"
	ProposalOpen       Name = "proposal-open"
	HandoverStuck      Name = "handover-stuck"
	GenerationBehind   Name = "generation-behind"
	TLSSelfSigned      Name = "tls-self-signed"
	TLSNotLoaded       Name = "tls-not-loaded"
	SettingsDiffer     Name = "settings-differ"
	VersionsDiffer     Name = "versions-differ"
	ClockDiffers       Name = "clock-differs"
	ClockBehind        Name = "clock-behind"
	PagerNotConfigured Name = "pager-not-configured"
	HookFailed         Name = "hook-failed"
)

// Kind is a row of the table.
type Kind struct {
	Name     Name
	Severity Severity
	Subject  string // what About names: "node", "slot", "path" or "" for the node itself
	Means    string // one sentence for the page
	Next     string // the next command, with {} for the subject
}

// text is what an operator reads when the condition holds; detail may be "".
func (k Kind) text(detail, next string) string {
	text := strings.TrimSuffix(k.Means, ".")
	if detail != "" {
		text += " (" + detail + ")"
	}
	return text + ": " + next
}

func (k Kind) next(about string) string { return strings.ReplaceAll(k.Next, "{}", about) }

// Lookup finds a row.
func Lookup(name Name) (Kind, bool) {
	all := Table()
	i := slices.IndexFunc(all, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return all[i], true
}

// Table returns all conditions that there are, in the order of the page.
func Table() []Kind {
	return slices.Concat(ownershipKinds(), diskKinds(), copyKinds(), settingKinds())
}

func ownershipKinds() []Kind {
	return []Kind{
		{NodeSilent, Page, "node", "No node has heard from it for suspect_after.", "mailnode failover list"},
		{ProposalOpen, Page, "proposal", "A failover is proposed and waits for a person.", "mailnode failover show {}"},
		{SlotNoMaster, Page, "slot", "Nobody serves this slot, its users cannot log in and their mail waits in the MTA.", "mailnode slot show {}"},
		{HandoverStuck, Page, "slot", "A hand-over is neither done nor taken back, the slot stays sealed.", "mailnode slot show {}"},
		{OpenLoss, Page, "slot", "It was promoted without all acknowledged mail, and nobody has said yet that the rest is given up.", "mailnode slot show {}"},
		{RaftNoQuorum, Page, "", "This node knows no Raft leader with a quorum: mail flows at the masters that serve, but no failover can be confirmed here.", "mailnode cluster members"},
		{SlotsFenced, Page, "", "This node has no quorum and `fence_without_quorum` is set: its slots are read-only, mail waits in the MTA.", "mailnode cluster members"},
		{SlotsUnassigned, Warn, "", "Slots have no master yet: they get one when enough nodes have started.", "mailnode cluster token NODE"},
		{RaftRemoved, Page, "", "This node is no member of the cluster any more: it takes no part in decisions, and serves nothing.", "systemctl stop mailnode"},
		{GenerationBehind, Page, "", "The cluster was recovered without this node: it serves nothing. What its copies have alone is kept, and comes home when its machine takes its place again, with a token that a member gives.", "mailnode cluster join --replace NODE"},
	}
}

func diskKinds() []Kind {
	return []Kind{
		{SlotRefused, Page, "slot", "Its files are damaged, of a newer release, or of another cluster or slot, and were not opened.", "mailnode slot show {}"},
		{SlotFailed, Page, "slot", "A write or fsync failed, or its files are gone: the store is stopped until it is opened again and proved.", "mailnode slot serve {}"},
		{SlotHangs, Page, "slot", "The disk of this node's copy does not answer: in half a minute the store is stopped.", "mailnode slot show {}"},
		{SlotNoRoom, Page, "slot", "The disk of this node's copy is full: it takes no changes until there is room, and is read meanwhile.", "mailnode slot show {}"},
		{SlotOpening, Warn, "slot", "This node's copy is still being opened and checked.", "mailnode slot show {}"},
		{DiskFull, Page, "path", "The file system has almost no room: deliveries, and whatever else grows, are put off.", "df -h {}"},
		{DiskStrained, Page, "path", "The disk is slow or fails; masters that have their mail on it are proposed to move away, if a better copy is there.", "mailnode failover list"},
		{RaftStoreFailed, Page, "", "Raft's files on this node failed, or were damaged, lost or older than what it has promised; mail is not in them. When a majority has lost them for good: `mailnode cluster recover`.", "mailnode cluster members"},
		{RaftNoRoom, Page, "", "The disk with Raft's files is full: this node decides nothing until there is room, and mail is not in them.", "df -h"},
		{RaftSnapshotFailed, Warn, "", "A snapshot of Raft's state could not be written, its log grows.", "df -h"},
		{RaftLogNewer, Page, "", "A newer release wrote what this one cannot read, or the cluster's feature level was raised above it: this node takes no part in decisions until it is upgraded.", "mailnode version"},
		{RaftLogCorrupt, Page, "", "A record of Raft's log does not match its checksum, Raft is stopped on this node, mail is not.", "mailnode cluster members"},
	}
}

func copyKinds() []Kind {
	return []Kind{
		{ReplicaLagPage, Page, "slot", "The slot has no replica less than five minutes behind.", "mailnode slot show {}"},
		{SlotUnprotected, Page, "slot", "No replica acknowledges: what is accepted now is on one disk only.", "mailnode slot show {}"},
		{SlotNoReplicas, Info, "slot", "The slot is configured without replicas, its mail is on one disk only.", "mailnode slot show {}"},
		{ReplicaMissing, Info, "slot", "The slot has fewer replicas than are wanted of it, and there are nodes that could hold one.", "mailnode slot rebalance"},
		{SlotMoving, Info, "slot", "A copy of it goes to another node: the new one is filled first, the old one is dropped last.", "mailnode slot list"},
		{MovesWait, Warn, "proposal", "Copies have been moved, and masters are to change as was planned: that waits for a person.", "mailnode failover show {}"},
		{MoveGivenUp, Warn, "slot", "A move of a copy was given up, the slot is as it was.", "mailnode slot rebalance"},
		{CopyDiverged, Page, "slot", "Mail that was accepted may be in no mailbox: a copy that a change of masters left behind is set aside whole, and no program of this release brings it back.", "mailnode rescue show {}"},
		{CopyBuilding, Info, "slot", "A copy is being filled or refilled and counts for nothing until it is done.", "mailnode slot show {}"},
		{ReplicaLeaving, Warn, "slot", "A replica that is to be dropped is still needed.", "mailnode slot show {}"},
		{CopyDropped, Warn, "slot", "A copy that was dropped is still on this node's disk.", "mailnode slot show {}"},
		{CopyDigestDiffers, Page, "slot", "Two copies at the same position hold different mail; the replica is healed from the master.", "mailnode slot show {}"},
		{EventQuarantined, Warn, "slot", "A replica cannot go on from where it is: an event could not be applied and was set aside, or its records are wrong; it fetches the whole state from its master.", "mailnode slot show {}"},
		{MessageMissing, Warn, "slot", "No copy has the bodies of some messages, which were removed from their mailboxes; they come back when a copy that has them does.", "mailnode slot missing {}"},
		{BodyDamaged, Warn, "slot", "Bodies of messages are damaged in this node's copy and are being fetched from the others.", "mailnode slot audit {}"},
		{IndexDamaged, Page, "slot", "The index of this node's copy is damaged or contradicts itself; what can be read is served.", "mailnode job list"},
		{SlotFileMended, Warn, "slot", "A SLOT file of this node's copy was damaged and is written again, because the index proves whose it is: the disk loses bits.", "mailnode slot audit {}"},
		{SlotReindexed, Warn, "slot", "Its index was rebuilt from what was left and from the packs; mail may have come back under new UIDs, flags may be lost.", "mailnode slot show {}"},
	}
}

func settingKinds() []Kind {
	return []Kind{
		{TLSSelfSigned, Warn, "", "Clients are shown a certificate that this node made itself.", "mailnode config example | grep -A1 tls_"},
		{TLSNotLoaded, Warn, "", "The certificate files cannot be read, the old ones stay in use.", "mailnode config check FILE"},
		{SettingsDiffer, Warn, "node", "It runs with other settings than this node where all should agree.", "mailnode status --json"},
		{VersionsDiffer, Info, "node", "It runs another release; neighbouring releases work together, for the time of an upgrade.", "mailnode cluster members"},
		{ClockDiffers, Warn, "node", "Its wall clock differs from this node's by more than a minute; only dates that people see are wrong.", "chronyc tracking"},
		{ClockBehind, Warn, "", "This machine's wall clock is before what is recorded, or in no sensible year; only dates that people see are wrong.", "chronyc tracking"},
		{HookFailed, Warn, "", "The command of `[hooks] on_change` failed and is tried again: what it sets, an address for instance, may be out of date.", "journalctl -u mailnode -g hook"},
		{PagerNotConfigured, Info, "", "Pages are shown here and in the metrics only: this release sends none.", "mailnode status"},
	}
}

// page is docs/CONDITIONS.md.
func page() string {
	var b strings.Builder
	b.WriteString("# Health conditions\n\n" +
		"What `mailnode status` can say, all of it. A condition is shown for as long as it holds, with its age on a\n" +
		"monotonic clock. **page**: wake somebody; **warn**: look at it today; **info**: a standing fact. This page is\n" +
		"made from `node/monitor/table.go` (`go test ./node/monitor -rewrite`).\n\n" +
		"| name | severity | about | what it means | next command |\n| --- | --- | --- | --- | --- |\n")
	for _, k := range Table() {
		subject := k.Subject
		if subject == "" {
			subject = "this node"
		}
		next := strings.ReplaceAll(strings.ReplaceAll(k.Next, "{}", strings.ToUpper(k.Subject)), "|", `\|`)
		b.WriteString("| `" + string(k.Name) + "` | " + string(k.Severity) + " | " + subject + " | " + k.Means + " | `" + next + "` |\n")
	}
	return b.String()
}
