package event

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"mailnode/storage"
)

func drawRecord(t *rapid.T) *MessageRecord {
	return &MessageRecord{
		Account: rapid.Uint64().Draw(t, "account"), Mailbox: rapid.Uint64().Draw(t, "mailbox"), Uid: rapid.Uint32().Draw(t, "uid"),
		Modseq: rapid.Uint64().Draw(t, "modseq"), SystemFlags: rapid.Uint32().Draw(t, "flags"),
		Keywords:         rapid.SliceOfN(rapid.String(), 0, 5).Draw(t, "keywords"),
		InternalDateUnix: rapid.Int64().Draw(t, "date"), Size: rapid.Int64().Draw(t, "size"),
		Guid: rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "guid"), BodyId: rapid.Uint64().Draw(t, "body"), SavedUnix: rapid.Int64().Draw(t, "saved"),
	}
}

func sameListed(t *rapid.T, b []byte) {
	rec, got := &MessageRecord{}, Listed{Flags: storage.Flags{Keywords: make([]string, 3)}}
	wantErr, err := proto.Unmarshal(b, rec), ParseListed(b, &got)
	switch {
	case wantErr == nil && err != nil:
		t.Fatalf("%x: %v, protobuf can read it", b, err)
	case err != nil && !errors.Is(err, storage.ErrCorrupt):
		t.Fatalf("%x: %v is no ErrCorrupt", b, err)
	case wantErr == nil:
		if d := cmp.Diff(rec.Listed(), got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%x: protobuf and ParseListed differ:\n%s", b, d)
		}
	}
}

// ParseListed finds what proto.Unmarshal finds, also in encodings that no
// release writes: fields twice, of another type, unknown, cut off.
func TestParseListedIsUnmarshal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Marshal(drawRecord(t))
		sameListed(t, b)
		b = append(b, Marshal(drawRecord(t))...)
		for range rapid.IntRange(0, 4).Draw(t, "more") {
			num := protowire.Number(rapid.IntRange(1, 30).Draw(t, "number"))
			switch rapid.IntRange(0, 4).Draw(t, "type") {
			case 0:
				b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), rapid.Uint64().Draw(t, "v"))
			case 1:
				b = protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), rapid.Uint64().Draw(t, "v"))
			case 2:
				b = protowire.AppendFixed32(protowire.AppendTag(b, num, protowire.Fixed32Type), rapid.Uint32().Draw(t, "v"))
			case 3:
				b = protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), rapid.String().Draw(t, "v"))
			case 4:
				b = protowire.AppendTag(protowire.AppendTag(b, num, protowire.StartGroupType), num, protowire.EndGroupType)
			}
		}
		sameListed(t, b)
		if len(b) > 0 {
			sameListed(t, b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")])
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			sameListed(t, b)
		}
	})
}

func FuzzParseListed(f *testing.F) {
	f.Add(Marshal(&MessageRecord{Account: 1, Mailbox: 2, Uid: 3, Modseq: 4, SystemFlags: 5, Keywords: []string{"a", "b"},
		InternalDateUnix: -6, Size: 7, Guid: make([]byte, 32), BodyId: 8, SavedUnix: 9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, got := &MessageRecord{}, Listed{}
		if proto.Unmarshal(b, rec) != nil {
			ParseListed(b, &got)
			return
		}
		if err := ParseListed(b, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(rec.Listed(), got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

func BenchmarkParseListed(b *testing.B) {
	rec := Marshal(&MessageRecord{Account: 1, Mailbox: 2, Uid: 70_000, Modseq: 4 << 40, SystemFlags: 1, InternalDateUnix: 1_790_000_000,
		Size: 70_000, Guid: make([]byte, 32), BodyId: 8, SavedUnix: 1_790_000_000})
	b.Run("listed", func(b *testing.B) {
		var l Listed
		for b.Loop() {
			if err := ParseListed(rec, &l); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		m := &MessageRecord{}
		for b.Loop() {
			if err := proto.Unmarshal(rec, m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
