package layertest

import (
	"archive/tar"
	"strings"
)

func repeat(s string, n int) string { return strings.Repeat(s, n) }

// odd is all that a folder can have.
func odd(name string) entry {
	return dir(name, mode(0o3751), owner(1234, 5678), modified(1_234_567_890, 987_654_321),
		xattr("user.x", "1"), xattr("trusted.y", "2"), xattr("system.posix_acl_default", acl(7, 5, 7, 1)))
}

// inherits is what umoci does with folders that have no entry.
const inherits = "new folders that have no entry have the group and the default ACL of theirs"

// impliedFolders are those that a layer has no entry for, the root among them.
func impliedFolders() []Case {
	return []Case{
		{Name: "implied/nothing-below", Layers: stack(layer(file("a/b/c/d", "x"), symlink("l/m", "x"), fifo("p/q/r")))},
		{Name: "implied/below-is-odd", Layers: stack(layer(odd("d"), file("d/a", "x")), layer(file("d/b", "y"), dir("d/e"), file("d/f/g", "z"))), UmociDiffers: inherits},
		{Name: "implied/below-is-odd-and-deep", Layers: stack(layer(odd("d"), odd("d/e"), odd("d/e/f")), layer(file("d/e/f/g", "y")), layer(file("d/e/f/h/i", "z"))), UmociDiffers: inherits},
		{Name: "implied/two-layers-down", Layers: stack(layer(odd("d"), file("d/a", "")), layer(file("x", "")), layer(file("d/b", "y")), layer(whiteout("d/a")))},
		{Name: "implied/entry-in-between", Layers: stack(layer(odd("d")), layer(dir("d", mode(0o700), owner(3, 4))), layer(file("d/b", "y")))},
		{Name: "implied/entry-behind", Layers: stack(layer(file("d/e/f", "x"), odd("d/e"), odd("d")))},
		{Name: "implied/entry-behind-over-lower", Layers: stack(layer(odd("d"), odd("d/e")), layer(file("d/e/f", "x"), dir("d/e", mode(0o500)), dir("d", owner(9, 9))))},
		{Name: "implied/entry-again", Layers: stack(layer(odd("d"), file("d/a", "x")), layer(dir("d")))},
		{Name: "implied/link-below", Layers: stack(layer(odd("usr"), odd("usr/lib"), symlink("lib", "usr/lib")), layer(file("lib/a/b", "x"))), UmociDiffers: inherits},
		{Name: "implied/by-hard-link", Layers: stack(layer(odd("d"), file("x", "1")), layer(hardLink("d/y", "x"), hardLink("e/y", "x")))},
		{
			Name:       "implied/over-a-file",
			Layers:     stack(layer(file("d", "a file"), file("e", "another")), layer(file("d/a", "x"), dir("d", mode(0o700)), file("e/b/c", "y"))),
			TarDiffers: "it puts nothing into a file", UmociDiffers: "it fails, as GNU tar does",
		},
		{Name: "root/entry", Layers: stack(layer(dir("./", mode(0o700), owner(5, 6), modified(1_000_000_000, 5), xattr("user.root", "1")), file("./a", "x")))},
		{Name: "root/no-entry", Layers: stack(layer(file("a", "x")))},
		{Name: "root/entry-in-the-middle", Layers: stack(layer(file("a", "x")), layer(dir("./", mode(0o750), owner(5, 6), xattr("trusted.t", "1"))), layer(file("b", "y")))},
		{Name: "root/entries", Layers: stack(layer(dir("./", xattr("user.a", "1"))), layer(file("x", ""), dir("/", mode(0o1777), xattr("user.b", "2"))))},
		{Name: "root/absolute-names", Layers: stack(layer(dir("/"), dir("/d"), file("/d/a", "x"), file("//d//b", "y"), file("./d/./c", "z"), hardLink("/e", "//d/a")))},
		{Name: "root/default-acl", Layers: stack(layer(dir("./", xattr("system.posix_acl_default", acl(7, 0, 7, 0)))), layer(file("a", ""), dir("d"), file("i/j", ""))), UmociDiffers: inherits},
	}
}

// replaced are names that become something else.
func replaced() []Case {
	return []Case{
		{
			Name: "replaced/across-layers",
			Layers: stack(
				layer(file("file-dir", "x"), dir("dir-file"), file("dir-file/a", "y"), dir("dir-file/b"), symlink("link-dir", "target"),
					dir("target"), file("target/t", ""), dir("dir-link"), file("dir-link/a", ""), file("file-fifo", "x"), fifo("fifo-file"),
					symlink("link-file", "target/t"), dir("dir-hard"), file("dir-hard/a", "")),
				layer(dir("file-dir", mode(0o700)), file("file-dir/a", "z"), file("dir-file", "w"), dir("link-dir"), file("link-dir/b", ""),
					symlink("dir-link", "target"), fifo("file-fifo"), file("fifo-file", "x"), file("link-file", "v"), hardLink("dir-hard", "target/t")),
			),
		},
		{
			Name: "replaced/within",
			Layers: stack(layer(
				file("a", "1"), dir("a"), file("a/b", "2"),
				dir("c"), file("c/d", "3"), dir("c/e"), file("c", "4"),
				dir("f"), file("f/g", "5"), symlink("f", "a"), file("f/h", "6"),
				symlink("i", "a"), dir("i"), file("i/j", "7"),
				dir("k"), file("k/l", ""), dir("other"), hardLink("k", "a/b"),
			)),
		},
		{
			Name: "replaced/within-over-lower",
			Layers: stack(tree(), layer(
				file("d", "1"), dir("d"), file("d/new", "2"), dir("other"), file("other/y", ""), symlink("other", "d"), file("other/z", "3"),
			)),
		},
		{
			Name:   "replaced/files-by-the-last",
			Layers: stack(layer(file("a", "1", mode(0o600)), file("b", "1"), file("a", "22", mode(0o640), xattr("user.x", "1")), symlink("b", "a"), file("b", "333"), file("./a", "4444"))),
		},
		{
			Name: "replaced/folders-by-the-last",
			Layers: stack(layer(
				odd("d"), file("d/a", "1"), dir("d", mode(0o700), owner(3, 4), xattr("user.z", "3")), file("d/b", "2"),
			)),
			TarDiffers: "it leaves the attributes that the folder had",
		},
		{
			Name:       "replaced/folders-attributes",
			Layers:     stack(layer(odd("d"), file("d/a", "")), layer(dir("d", xattr("user.z", "3")))),
			TarDiffers: "it leaves the attributes that the folder had",
		},
		{
			Name:   "replaced/a-linked-file",
			Layers: stack(layer(file("a", "1"), hardLink("b", "a"), file("a", "2"), hardLink("c", "a"), hardLink("d", "b"), file("d", "3"))),
		},
		{
			Name:   "replaced/special-by-special",
			Layers: stack(layer(device(tar.TypeChar, "a", 1, 3), fifo("b"), symlink("c", "x")), layer(device(tar.TypeBlock, "a", 7, 0), device(tar.TypeChar, "b", 1, 5), symlink("c", "y"))),
		},
		{
			Name:   "replaced/back-and-forth",
			Layers: stack(layer(file("a", "1")), layer(dir("a"), file("a/b", "2")), layer(file("a", "3")), layer(dir("a"), file("a/c", "4")), layer(symlink("a", "b"))),
		},
	}
}
