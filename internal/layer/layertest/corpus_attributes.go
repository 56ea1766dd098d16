package layertest

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
)

// acl is a POSIX ACL as an xattr, with an entry for the user 1001 and a mask.
func acl(user, group, mask, other uint16) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{
		{1, user, 1<<32 - 1}, {2, 7, 1001}, {4, group, 1<<32 - 1}, {0x10, mask, 1<<32 - 1}, {0x20, other, 1<<32 - 1},
	} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

// capability is security.capability with CAP_NET_RAW.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func attributes() []Case {
	var modes []entry
	for _, m := range []int64{0, 0o777, 0o4755, 0o2755, 0o6711, 0o1777, 0o7777, 0o4000, 0o111} {
		name := fmt.Sprintf("%04o", m)
		modes = append(modes, dir("d"+name, mode(m), owner(33, 44)), file("d"+name+"/f", "x", mode(m)), file("f"+name, "x", mode(m), owner(33, 44)))
	}
	manyXattrs := file("many", "x")
	for i := range 40 {
		xattr(fmt.Sprintf("user.number-%d", i), fmt.Sprint(i))(&manyXattrs.header)
	}
	return []Case{
		{
			Name:         "attributes/modes",
			Layers:       stack(layer(modes...), layer(file("d0000/g", ""), file("d2755/g", ""), dir("d7777/e"), file("d7777/i/j", ""))),
			UmociDiffers: inherits,
		},
		{
			Name: "attributes/owners",
			Layers: stack(layer(
				file("a", "", owner(65534, 65534)), file("b", "", owner(70_000, 1<<31)), dir("c", owner(1<<32-2, 1<<32-2)),
				symlink("d", "a", owner(1000, 1001)), fifo("e", owner(1, 0)), device(tar.TypeChar, "f", 1, 3, owner(0, 1)),
				file("g", "", owner(3_000_000, 5), format(tar.FormatGNU)),
			)),
		},
		{
			Name: "attributes/times",
			Layers: stack(layer(
				file("a", "", modified(-1, 0)), file("b", "", modified(-1, 1)), file("c", "", modified(-2_000_000_000, 999_999_999)),
				file("d", "", modified(0, 0)), file("e", "", modified(0, 1)), file("f", "", modified(8_000_000_000, 123_456_789)),
				dir("g", modified(-5, 5)), file("g/h", ""), symlink("i", "a", modified(1, 2)), fifo("j", modified(3, 4)),
				file("k", "", modified(1<<33, 0), format(tar.FormatGNU)),
			)),
		},
		{
			Name: "attributes/xattrs",
			Layers: stack(layer(
				file("a", "x", xattr("user.a", "1"), xattr("user.empty", ""), xattr("user.binary", "\x00\n=\xff"), xattr("trusted.t", "2")),
				dir("d", xattr("user.d", "3"), xattr("trusted.t", "4")), file("d/e", "x"),
				file("large", "x", xattr("user.large", repeat("v", 3000))), manyXattrs,
				symlink("s", "a", xattr("trusted.s", "5")), fifo("p", xattr("trusted.p", "6")),
				device(tar.TypeChar, "n", 1, 3, xattr("trusted.n", "7")),
			), layer(file("a", "y", xattr("user.b", "8")), file("d/f", "z"))),
			TarDiffers: "the folder keeps its attributes",
		},
		{
			Name: "attributes/capability",
			Layers: stack(layer(
				file("ping", "x", mode(0o755), owner(10, 20), xattr("security.capability", capability)),
				file("set", "x", mode(0o4755), xattr("security.capability", capability)),
			), layer(hardLink("pong", "ping"))),
		},
		{
			Name: "attributes/acls",
			Layers: stack(layer(
				file("a", "x", mode(0o674), xattr("system.posix_acl_access", acl(6, 4, 7, 4))),
				dir("d", mode(0o770), xattr("system.posix_acl_access", acl(7, 5, 7, 0)), xattr("system.posix_acl_default", acl(6, 0, 7, 1))),
				file("d/in", "x"), dir("d/sub"), dir("d/e", mode(0o750)),
			), layer(
				file("d/new", "y"), dir("d/newer"), file("d/implied/z", "z"), symlink("d/s", "new"), fifo("d/p"), hardLink("d/l", "a"),
			)),
			UmociDiffers: inherits,
		},
		{
			Name: "attributes/devices",
			Layers: stack(layer(
				fifo("fifo", mode(0o600)), device(tar.TypeChar, "null", 1, 3, mode(0o666)), device(tar.TypeBlock, "loop", 7, 0),
				device(tar.TypeBlock, "nvme", 259, 1<<20-1), device(tar.TypeChar, "large", 4095, 255), device(tar.TypeChar, "minor", 0, 1),
			), layer(whiteout("null"), device(tar.TypeChar, "zero", 1, 5))),
			TarDiffers: "it knows no whiteouts",
		},
	}
}
