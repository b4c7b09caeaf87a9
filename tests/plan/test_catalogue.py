"""The package's own facts, and a user's files over them."""

import pytest

from homegrown.config import ConfigError
from homegrown.plan.catalogue import Catalogue, plain
from homegrown.plan.quantity import EXPECTED, World

CATALOGUE = Catalogue.load()

CHIP = """
[x1]
title = "X1"
vendor = "Us"
mark = "B"
source = "our lab"
date = "2026-11"
peak.bf16 = "500 TFLOP/s"
ceiling.bf16 = "400 TFLOP/s"
memory = "64 GiB"
bandwidth = "2 TB/s"
power = "500 W"
idle_power = "80 W"
"""
CLUSTER = """
[x1-nodes]
title = "Nodes of 8 X1"
chip = "x1"
node = 8
mark = "B"
source = "our lab"
system_power = "300 W"
pue = 1.2
failures = "5 per 1000 node-days"
restart = "5 min"
storage = "200 MB/s"
host_bandwidth = "64 GB/s one way"
[[x1-nodes.tiers]]
name = "node"
size = 8
effective = "300 GB/s one way"
latency = "3 us"
[[x1-nodes.tiers]]
name = "network"
size = 0
bandwidth = "400 Gb/s"
latency = "6 us"
"""


def load(folder, **files):
    """A catalogue with files of one's own: `chips`, `clusters`, `prices`, `rules` or `model_NAME`."""
    for name, text in files.items():
        path = folder / (f"models/{name[6:]}.toml" if name.startswith("model_") else f"{name}.toml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return Catalogue.load(folder)


class TestPackage:
    @pytest.mark.parametrize(
        ("name", "bf16_tf", "memory_gb", "bandwidth_gbps", "power_w"),
        [
            # Data sheets; memory where drivers report more than the label is checked below.
            ("h100-96gb", 989, 96, 2400, 500),
            ("b200", 2250, 180, 8000, 1000),
            ("gb300", 2500, 288, 8000, 1400),
            ("mi300x", 1307, 192, 5300, 750),
            ("tpu-v5p", 459, 95, 2760, None),
            ("trainium2", 667, 96, 2900, 500),
            ("gaudi3", 1677, 128, 3700, 900),
            ("ascend-910b", 320, 64, 1600, 400),
            ("ascend-910c", 752, 128, 3200, None),
            ("ascend-950dt", 486, 144, 4000, None),
            ("mlu590", 256, 64, 1230, 350),
        ],
    )
    def test_chips(self, name, bf16_tf, memory_gb, bandwidth_gbps, power_w):
        chip = CATALOGUE.chip(name)
        assert chip.peak["bf16"].value == pytest.approx(bf16_tf * 1e12)
        assert chip.memory.value == pytest.approx(memory_gb * 1e9)
        assert chip.bandwidth.value == pytest.approx(bandwidth_gbps * 1e9)
        if power_w is None:
            assert chip.power.mark == "gap", "nobody has published it"
            assert chip.power.high / chip.power.low > 1.8
        else:
            assert chip.power.value == pytest.approx(power_w)

    def test_vendors_labels_are_not_taken_for_bytes(self):
        assert CATALOGUE.chip("h100").memory.value == 81559 * 2**20
        assert CATALOGUE.chip("a100").memory.value == 80 * 2**30

    def test_measured_ceilings_are_shares_of_the_peak(self):
        for name, share in {
            "a100": 0.87,
            "h100": 0.80,
            "b200": 0.78,
            "gb200": 0.73,
            "mi300x": 0.51,
            "gaudi3": 0.74,
        }.items():
            assert CATALOGUE.chip(name).ceiling["bf16"].value == pytest.approx(share, abs=0.006)

    def test_ceilings_nobody_measured_are_wide(self):
        for name in ("ascend-910b", "ascend-910c", "tpu-v5p", "trainium2", "mlu590"):
            chip = CATALOGUE.chip(name)
            assert chip.ceiling["bf16"].mark == "gap"
            assert chip.ceiling["bf16"].high / chip.ceiling["bf16"].low >= 1.5
            assert any("were not measured" in note for note in chip.notes)

    def test_a_die_is_half_a_package(self):
        package, die = CATALOGUE.chip("ascend-910c"), CATALOGUE.chip("ascend-910c-die")
        assert (package.unit, die.unit) == ("package", "die")
        for field in ("memory", "bandwidth", "power", "capital"):
            assert getattr(die, field).value == pytest.approx(getattr(package, field).value / 2)
        assert die.peak["bf16"].value == package.peak["bf16"].value / 2
        pods = (
            CATALOGUE.cluster("cloudmatrix-384").tiers[0].size,
            CATALOGUE.cluster("cloudmatrix-384-die").tiers[1].size,
        )
        assert pods == (384, 768)

    def test_pod_power_adds_up(self):
        """A 384-package pod draws 559 kW, whatever part of it the packages draw."""
        cluster = CATALOGUE.cluster("cloudmatrix-384")
        least = cluster.chip.power.low + cluster.system_power.low
        most = cluster.chip.power.high + cluster.system_power.high
        assert least < 559e3 / 384 < most
        assert 384 * (cluster.chip.power.value + cluster.system_power.value) == pytest.approx(559e3, rel=0.05)

    def test_measured_links_are_taken_as_they_are_and_rated_ones_are_not(self):
        measured = CATALOGUE.cluster("hgx-h800").tiers
        assert [tier.bandwidth.value for tier in measured] == [160e9, 50e9]
        rated = CATALOGUE.cluster("hgx-h100").tiers
        assert [tier.bandwidth.value for tier in rated] == pytest.approx([0.8 * 450e9, 0.8 * 50e9])
        assert "of the rated bandwidth" in rated[0].bandwidth.note

    def test_llama3_interruptions(self):
        """419 in 54 days on 2,048 nodes."""
        rate = CATALOGUE.cluster("meta-24k-h100").failures.value
        assert rate * 2048 * 54 == pytest.approx(419, rel=0.002)
        assert 24 / (rate * 2048) == pytest.approx(3.09, rel=0.002)

    def test_clusters_that_are_promised(self):
        for name in (
            "atlas-950", "atlas-950-dt", "cloudmatrix-384", "atlas-800t-a2", "hgx-h100", "hgx-h800", "hgx-h200",
            "hgx-b200", "hgx-b300", "hgx-h20", "gb200-nvl72", "gb300-nvl72", "hgx-a100", "mi300x", "mi325x", "mi355x",
            "gaudi3", "trainium2", "tpu-v4", "tpu-v5p", "tpu-v7x",
        ):  # fmt: skip
            cluster = CATALOGUE.cluster(name)
            machine = cluster.machine(EXPECTED)
            assert 0 < machine.products["bf16"] < machine.peak["bf16"]
            assert machine.links[-1].size == 0
            assert all(link.pair <= link.bandwidth for link in machine.links)

    def test_every_cluster_has_a_price_to_rent_or_says_nothing(self):
        unknown = {name for name, cluster in CATALOGUE.clusters.things.items() if cluster.chip.rental is None}
        assert unknown == {
            "hgx-v100", "rubin-nvl72", "mi455x", "mi250x", "mlu590", "k100-ai", "c500", "bi-150", "tpu-v3",
        }  # fmt: skip
        assert CATALOGUE.chip("h800").rental.value == 2.0
        assert CATALOGUE.chip("ascend-910c").rental.mark == "gap"
        assert CATALOGUE.chip("ascend-910c").capital.value == pytest.approx(334_000 * 0.14)

    def test_sale_facts_are_dated(self):
        facts = CATALOGUE.chip("h800").facts
        assert facts[0].startswith("2023-10: sale to China banned (B; ")
        assert CATALOGUE.chip("a100").facts == ()

    def test_every_figure_says_where_it_was_read(self):
        for chip in CATALOGUE.chips.things.values():
            for figure in (*chip.peak.values(), *chip.ceiling.values(), chip.memory, chip.bandwidth, chip.power):
                assert figure.source
                assert figure.date
        for cluster in CATALOGUE.clusters.things.values():
            for figure in (cluster.system_power, cluster.failures, cluster.restart, cluster.storage, cluster.pue):
                assert figure.source
                assert figure.mark != "gap" or figure.high / figure.low > 1.15

    def test_worlds_differ_where_facts_are_rough_and_agree_on_declared_peaks(self):
        cluster = CATALOGUE.cluster("atlas-950")
        machines = [cluster.machine(World(index, 8)) for index in range(8)]
        assert len({machine.peak["bf16"] for machine in machines}) == 1
        spread = [machine.products["bf16"] for machine in machines]
        assert max(spread) / min(spread) > 1.5

    def test_site(self):
        assert CATALOGUE.site("electricity").value * 3.6e6 == pytest.approx(0.08)
        assert CATALOGUE.site("lifetime").value == pytest.approx(4 * 365.25 * 86400)

    def test_is_read_once(self):
        assert Catalogue.load() is CATALOGUE


class TestNames:
    @pytest.mark.parametrize("name", ["h100", "H100", "H 100", "h100-80gb", "H100 SXM"])
    def test_case_and_punctuation_do_not_matter(self, name):
        assert CATALOGUE.chip(name).name == "h100"
        assert plain("Llama 3.1 405B") == plain("llama-3.1-405b")

    def test_unknown_ones_have_a_hint_and_a_list(self):
        with pytest.raises(ConfigError, match=r"no chip 'h10' \(did you mean 'h100'\?\); there are: .*a100.*tpu-v7x"):
            CATALOGUE.chip("h10")
        with pytest.raises(ConfigError, match=r"no cluster 'H100' \(did you mean 'hgx-h100'\?\)"):
            CATALOGUE.cluster("H100")
        with pytest.raises(ConfigError, match=r"no model 'deepseek-v33' \(did you mean 'deepseek-v3'\?\)"):
            CATALOGUE.shape("deepseek-v33")


class TestOwnFiles:
    def test_chip_and_cluster_of_ones_own(self, tmp_path):
        own = load(
            tmp_path,
            chips=CHIP,
            clusters=CLUSTER,
            prices='[rental]\nx1 = {value = "1 USD/h", mark = "A", source = "us"}',
        )
        cluster = own.cluster("X1 nodes")
        assert cluster.chip.ceiling["bf16"].value == pytest.approx(0.8)
        assert cluster.chip.memory.value == 64 * 2**30
        assert cluster.chip.rental.value == 1.0
        assert [tier.bandwidth.value for tier in cluster.tiers] == pytest.approx([300e9, 40e9])
        assert own.chip("h100") == CATALOGUE.chip("h100"), "the package's are still there"
        assert own.prices.site == CATALOGUE.prices.site

    def test_like_another(self, tmp_path):
        own = load(tmp_path, chips='[h100-94]\nlike = "h100"\nmark = "B"\nsource = "us"\nmemory = "94 GB"\n')
        chip, base = own.chip("h100-94"), own.chip("h100")
        assert (chip.memory.value, chip.memory.mark) == (94e9, "B")
        assert chip.peak["bf16"].value == base.peak["bf16"].value
        assert chip.peak["bf16"].mark == "B", "no better than the statement that the two are alike"

    def test_replacing_one_of_the_package(self, tmp_path):
        own = load(tmp_path, chips='[h100]\nlike = "h100"\nmark = "A"\nsource = "us"\npower = "650 W"\n')
        assert own.chip("h100").power.value == 650
        assert own.chip("h100").memory == CATALOGUE.chip("h100").memory
        assert own.cluster("hgx-h100").chip.power.value == 650, "clusters of the package have the new one"
        assert own.chip("h800").power.value == CATALOGUE.chip("h800").power.value == 700, "and alike chips the old one"

    def test_site_of_ones_own(self, tmp_path):
        text = '[site]\nelectricity = {value = "0.05 USD/kWh", mark = "A", source = "our contract"}'
        own = load(tmp_path, prices=text)
        assert own.site("electricity").value == pytest.approx(0.05 / 3.6e6)
        assert own.site("load") == CATALOGUE.site("load")

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ('"64 GiB"', '"64 Gb"', "chips.toml: x1.memory = '64 Gb': Gb is a unit of bits"),
            ('"64 GiB"', "64", "x1.memory = 64: needs a unit, as in '80 GB'"),
            ('"64 GiB"', '"0 GiB"', "x1.memory = '0 GiB': must be positive"),
            ('memory = "64 GiB"\n', "", "x1: 'memory' is missing; it must be a size of memory, as in '80 GB'"),
            ("memory", "memroy", "x1: 'memory' is missing"),
            ('title = "X1"', 'title = "X1"\ncolour = "red"', "x1: unknown key 'colour'"),
            ("peak.bf16", "peak.bf17", "x1.peak: unknown key 'bf17' (did you mean 'bf16'?)"),
            ("peak.bf16", "peak.fp8", "'peak.bf16' is missing"),
            ('"400 TFLOP/s"', '"600 TFLOP/s"', "must not be above the peak of 500 TFLOP/s in bf16"),
            ('ceiling.bf16 = "400 TFLOP/s"', 'ceiling.fp8 = "0.7"', "no peak in fp8"),
            ('"400 TFLOP/s"', '"120 %"', "a share must lie between 0.01 % and 100 %"),
            ("ceiling.bf16", 'peak.fp8 = "400 TFLOP/s"\nceiling.bf16', "must not be below bf16's 500"),
            ('"2 TB/s"', '"2 GB/s"', "2.5e+05 operations of the bf16 peak for each byte read"),
            ('"2 TB/s"', '"2 TB"', "TB is a unit of an amount of memory"),
            ('"500 W"\nidle_power = "80 W"', '"5 W"\nidle_power = "1 W"', "1e+14 bf16 operations for each joule"),
            ('"80 W"', '"600 W"', "must be below the power under load, 500 W"),
            ('mark = "B"', 'mark = "Q"', "x1.mark = 'Q': must be one of 'A', 'A-', 'B', 'C', 'gap'"),
            ('mark = "B"\n', "", "must say how far the figure can be trusted"),
            ('source = "our lab"\n', "", "'source' is missing"),
            ('vendor = "Us"', 'vendor = "Us"\nunit = "card"', "x1.unit = 'card': must be one of 'package', 'die'"),
            ('title = "X1"', 'like = "h1000"', "x1.like = 'h1000': there is no such chip (did you mean 'h100'?)"),
            ('title = "X1"', 'like = "x1"', "x1.like = 'x1': there is no such chip"),
            ('title = "X1"', 'title = "X1"\naliases = ["H-100"]', "'H-100' is a name of 'h100' already"),
            ("[x1]", "[h-100]", "'h-100' and 'h100' are the same name"),
            ("[x1]", '["--"]', "a name needs letters or digits"),
            ("[x1]", "[x1", "not valid TOML"),
        ],
    )  # fmt: skip
    def test_bad_chips_are_refused_in_a_sentence(self, tmp_path, old, new, words):
        assert old in CHIP
        with pytest.raises(ConfigError) as error:
            load(tmp_path, chips=CHIP.replace(old, new, 1))
        assert words in str(error.value)
        assert "chips.toml" in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ('chip = "x1"', 'chip = "x2"', "no chip 'x2' (did you mean 'x1'?)"),
            ('chip = "x1"\n', "", "x1-nodes: 'chip' is missing"),
            ('"300 GB/s one way"', '"600 GB/s"', "say whether that is one way or both"),
            ('"300 GB/s one way"', '"3 TB/s one way"', "more than the chip's memory (2,000)"),
            ('"400 Gb/s"', '"400 GB/s one way"', "320 GB/s one way, more than tier 'node' inside it (300)"),
            ('"400 Gb/s"', '"350 GB/s one way"', "which no network card does (1.6 Tb/s are 200 GB/s)"),
            ("effective", "bandwith", "needs either 'bandwidth', the rated one"),
            ('effective = "300', 'bandwidth = "300 GB/s one way"\neffective = "300', "needs either 'bandwidth'"),
            ("size = 0", "size = 64", "sizes of tiers are [8, 64]; the last must be 0"),
            ("size = 8", "size = 0", "sizes of tiers are [0, 0]"),
            ("size = 8", "size = -8", "size = -8: must be a whole number of at least 0"),
            ("node = 8", "node = 0", "x1-nodes.node = 0: must be a whole number of at least 1"),
            ("node = 8", "node = 3", "x1-nodes.node = 3: must divide a tier of 8"),
            ('name = "network"', 'name = "node"', "tiers must have names of their own"),
            ('"3 us"', '"3"', "latency = '3': needs a unit, as in '3.4 us'"),
            ('latency = "3 us"\n', "", "tiers[0]: 'latency' is missing"),
            ("pue = 1.2", "pue = 0.8", "pue = 0.8: a power usage effectiveness must lie between 1 and 3"),
            ('"5 per 1000 node-days"', '"5 per node-day"', "must lie between 0.001 per 1000 node-days and"),
            ('"64 GB/s one way"', '"64 GB/s"', "say whether that is one way or both"),
            ("size = 8", 'size = 8\npair = "10 GB/s one way"', "10 GB/s to each of 7 peers and 300 GB/s together"),
        ],
    )  # fmt: skip
    def test_bad_clusters_are_refused_in_a_sentence(self, tmp_path, old, new, words):
        assert old in CLUSTER
        with pytest.raises(ConfigError) as error:
            load(tmp_path, chips=CHIP, clusters=CLUSTER.replace(old, new, 1))
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    def test_tiers_must_hold_whole_ones(self, tmp_path):
        pod = '[[x1-nodes.tiers]]\nname = "pod"\nsize = 20\nbandwidth = "500 Gb/s"\nlatency = "5 us"\n'
        text = CLUSTER.replace('[[x1-nodes.tiers]]\nname = "network"', pod + '[[x1-nodes.tiers]]\nname = "network"')
        with pytest.raises(ConfigError, match="a tier of 20 devices must hold several whole tiers of 8"):
            load(tmp_path, chips=CHIP, clusters=text)

    def test_pods_lost_whole_can_be_taken_back(self, tmp_path):
        own = load(tmp_path, clusters='[mine]\nlike = "gb200-nvl72"\nmark = "A"\nsource = "us"\npod_failures = false\n')
        assert own.cluster("gb200-nvl72").pod_failures is not None
        assert own.cluster("mine").pod_failures is None

    def test_circles(self, tmp_path):
        text = '[a1]\nlike = "b1"\n[b1]\nlike = "a1"\n'
        with pytest.raises(ConfigError, match="are like one another"):
            load(tmp_path, chips=text)

    def test_prices_and_rules_of_unknown_chips(self, tmp_path):
        with pytest.raises(ConfigError, match=r"prices.toml: there is no chip 'h101' \(did you mean 'h100'"):
            load(tmp_path, prices='[rental]\nh101 = {value = "1 USD/h", mark = "A", source = "us"}')
        (tmp_path / "prices.toml").unlink()
        rule = '[[rules]]\nchips = ["h101"]\ntext = "t"\ndate = "2026"\nmark = "A"\nsource = "us"\n'
        with pytest.raises(ConfigError, match=r"rules.toml: there is no chip 'h101'"):
            load(tmp_path, rules=rule)
        with pytest.raises(ConfigError, match=r"rules\[0\]: 'date' is missing"):
            load(tmp_path, rules=rule.replace('date = "2026"\n', ""))

    def test_bad_prices(self, tmp_path):
        with pytest.raises(ConfigError, match=r"rental.h100 = '2.95': needs a unit, as in '2.95 USD/h'"):
            load(tmp_path, prices='mark = "A"\nsource = "us"\n[rental]\nh100 = "2.95"\n')
        with pytest.raises(ConfigError, match=r"site: unknown key 'electricty' \(did you mean 'electricity'"):
            load(tmp_path, prices='[site]\nelectricty = "0.1 USD/kWh"\n')

    def test_models_of_ones_own(self, tmp_path):
        text = (
            'title = "Mine"\nsource = "us"\nhidden = 512\nvocab = 1000\n'
            'attention = { kind = "gqa", heads = 8, query = 64, value = 64 }\n[[layers]]\ncount = 4\ndense = [2048]\n'
        )
        own = load(tmp_path, model_mine=text)
        assert own.shape("Mine").depth == 4
        assert own.published("mine") is None
        with pytest.raises(ConfigError, match=r"mine.toml: mine.hidden = 'wide'"):
            load(tmp_path, model_mine=text.replace("512", '"wide"'))

    def test_folders_that_are_none(self, tmp_path):
        with pytest.raises(ConfigError, match="no such folder of data files"):
            Catalogue.load(tmp_path / "none")
        with pytest.raises(ConfigError, match=r"holds no data file; known are chips.toml"):
            Catalogue.load(tmp_path)
        (tmp_path / "chip.toml").write_text(CHIP)
        with pytest.raises(ConfigError, match=r"chip.toml: no such data file \(did you mean 'chips.toml'\?\)"):
            Catalogue.load(tmp_path)
