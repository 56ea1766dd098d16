package layertest

import "archive/tar"

// keepsHidden is what umoci does where a marker comes behind an entry in what it hides.
const keepsHidden = "a hidden folder that comes back without an entry keeps its attributes"

// tree is a few folders and files to hide.
func tree() []byte {
	return layer(
		dir("d", mode(0o710), owner(1, 2)), file("d/a", "one"), file("d/b", "two"),
		dir("d/e", mode(0o701)), file("d/e/c", "three"), dir("d/e/f"), file("d/e/f/g", "four"),
		symlink("d/s", "a"), file("top", "five"), dir("other"), file("other/x", "six"),
	)
}

func whiteouts() []Case {
	cases := []Case{
		{Name: "whiteout/file", Layers: stack(tree(), layer(whiteout("d/a"), whiteout("top")))},
		{Name: "whiteout/folder", Layers: stack(tree(), layer(whiteout("d")))},
		{Name: "whiteout/link", Layers: stack(tree(), layer(whiteout("d/s")))},
		{Name: "whiteout/all", Layers: stack(tree(), layer(whiteout("d"), whiteout("top"), whiteout("other")))},
		{Name: "whiteout/folder-entry-too", Layers: stack(tree(), layer(dir("d", mode(0o755)), whiteout("d/e"), dir("d")))},
		{Name: "whiteout/nothing", Layers: stack(tree(), layer(whiteout("d/none"), whiteout("none"), file("new", "")))},
		{Name: "whiteout/in-missing-folder", Layers: stack(tree(), layer(whiteout("no/such/folder/x"), whiteout("d/no/x")))},
		{Name: "whiteout/in-a-file", Layers: stack(tree(), layer(whiteout("top/x"), whiteout("d/a/x/y")))},
		{Name: "whiteout/in-lowest-layer", Layers: stack(layer(whiteout("x"), dir("d"), whiteout("d/y"), file("d/z", "")))},
		{Name: "whiteout/in-new-folder", Layers: stack(tree(), layer(dir("new"), whiteout("new/x"), file("new/y", "")))},
		{Name: "whiteout/of-brought-before", Layers: stack(tree(), layer(file("d/a", "new"), whiteout("d/a")))},
		{Name: "whiteout/of-brought-after", Layers: stack(tree(), layer(whiteout("d/a"), file("d/a", "new")))},
		{Name: "whiteout/of-brought-only-here", Layers: stack(tree(), layer(whiteout("d/new"), file("d/new", "new"), whiteout("d/new")))},
		{
			Name:   "whiteout/folder-made-anew",
			Layers: stack(tree(), layer(whiteout("d"), dir("d", mode(0o700)), file("d/new", "new"))),
		},
		{
			Name:   "whiteout/folder-made-anew-before",
			Layers: stack(tree(), layer(dir("d", mode(0o700)), file("d/new", "new"), whiteout("d"))),
		},
		{
			Name:   "whiteout/folder-implied-anew",
			Layers: stack(tree(), layer(whiteout("d"), file("d/e/new", "new"))),
		},
		{
			Name:         "whiteout/folder-implied-anew-before",
			Layers:       stack(tree(), layer(file("d/e/new", "new"), whiteout("d"))),
			UmociDiffers: keepsHidden,
		},
		{
			Name:   "whiteout/folder-and-in-it",
			Layers: stack(tree(), layer(whiteout("d"), whiteout("d/e/c"), file("d/e/f/h", "new"))),
		},
		{
			Name:   "whiteout/folder-becomes-file",
			Layers: stack(tree(), layer(whiteout("d"), file("d", "a file"), whiteout("top"), dir("top"), file("top/x", ""))),
		},
		{
			Name:   "whiteout/folder-becomes-link",
			Layers: stack(tree(), layer(whiteout("d"), symlink("d", "other"), whiteout("other/x"))),
		},
		{
			Name:   "whiteout/brought-back",
			Layers: stack(tree(), layer(whiteout("d"), whiteout("top")), layer(dir("d"), file("d/a", "again"), file("top", "again"))),
		},
		{
			Name:   "whiteout/made-anew-twice",
			Layers: stack(tree(), layer(whiteout("d"), dir("d"), file("d/1", "")), layer(whiteout("d"), dir("d"), file("d/2", "")), layer(file("d/3", ""))),
		},
		{
			Name: "whiteout/odd-markers",
			Layers: stack(tree(), layer(
				file("d/.wh.a", "with content", mode(0o600), owner(9, 9), xattr("user.x", "1")),
				hardLink("d/.wh.b", "d/.wh.a"), symlink("d/.wh.s", "a"), dir("d/.wh.e"),
			)),
		},
		{
			Name: "whiteout/aufs-bookkeeping",
			Layers: stack(tree(), layer(
				dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", ""), dir(".wh..wh.orph"), file("new", ""),
			)),
			UmociDiffers: "it takes them for whiteouts of odd names",
		},
		{
			Name: "whiteout/not-quite",
			Layers: stack(tree(), layer(
				file("wh.top", ""), file(".whx", ""), file("d/a.wh.b", ""), file(".w", ""), file(".wh", ""),
			)),
		},
		{
			Name:   "whiteout/long-name",
			Layers: stack(layer(file(repeat("n", 251), "x"), file("y", "")), layer(whiteout(repeat("n", 251)))),
		},
	}
	for i := range cases {
		cases[i].TarDiffers = "it knows no whiteouts"
	}
	return cases
}

func opaqueFolders() []Case {
	news := []entry{file("d/new", "new"), file("d/a", "newer")}
	cases := []Case{
		{Name: "opaque/before", Layers: stack(tree(), layer(append([]entry{dir("d"), opaque("d")}, news...)...))},
		{Name: "opaque/after", Layers: stack(tree(), layer(append(news, opaque("d"))...))},
		{Name: "opaque/between", Layers: stack(tree(), layer(news[0], opaque("d"), news[1], dir("d", mode(0o700))))},
		{Name: "opaque/alone", Layers: stack(tree(), layer(opaque("d")))},
		{Name: "opaque/implied", Layers: stack(tree(), layer(opaque("d/e"), file("d/e/new", "new")))},
		{Name: "opaque/nested", Layers: stack(tree(), layer(file("d/e/f/new", "new"), opaque("d/e"), opaque("d"))), UmociDiffers: keepsHidden},
		{Name: "opaque/inner", Layers: stack(tree(), layer(dir("d/e/f"), opaque("d/e/f"), file("d/e/new", "new")))},
		{Name: "opaque/twice", Layers: stack(tree(), layer(opaque("d"), file("d/x", ""), opaque("d"), file("d/y", "")))},
		{Name: "opaque/root", Layers: stack(tree(), layer(file(".wh..wh..opq", ""), file("new", "new"), file("d/new", "new")))},
		{Name: "opaque/root-after", Layers: stack(tree(), layer(dir("./", mode(0o711)), file("new", "new"), file("d/new", "new"), file("./.wh..wh..opq", ""))), UmociDiffers: keepsHidden},
		{Name: "opaque/root-in-the-middle", Layers: stack(tree(), layer(file(".wh..wh..opq", ""), dir("d"), file("d/1", "")), layer(file("d/2", "")))},
		{Name: "opaque/lowest", Layers: stack(layer(dir("d"), opaque("d"), file("d/x", ""), file(".wh..wh..opq", "")), layer(file("d/y", "")))},
		{Name: "opaque/nothing", Layers: stack(tree(), layer(opaque("none"), opaque("d/no/such"), file("x", "")))},
		{Name: "opaque/of-a-file", Layers: stack(tree(), layer(opaque("top"), opaque("d/a/b"), file("x", "")))},
		{Name: "opaque/new-folder", Layers: stack(tree(), layer(opaque("none"), dir("none"), file("none/x", "")))},
		{Name: "opaque/and-whiteouts", Layers: stack(tree(), layer(whiteout("d/a"), opaque("d"), whiteout("d/new"), file("d/new", ""), whiteout("d"))), UmociDiffers: keepsHidden},
		{Name: "opaque/twice-in-a-stack", Layers: stack(tree(), layer(opaque("d"), file("d/1", "")), layer(file("d/2", "")), layer(opaque("d"), file("d/3", "")), layer(file("d/4", "")))},
		{Name: "opaque/with-hard-link", Layers: stack(tree(), layer(opaque("d"), hardLink("d/new", "other/x")))},
		{
			Name:   "opaque/folder-replaced",
			Layers: stack(tree(), layer(opaque("d"), symlink("other", "d"), device(tar.TypeChar, "d/null", 1, 3))),
		},
	}
	for i := range cases {
		cases[i].TarDiffers = "it knows no opaque markers"
	}
	return cases
}
