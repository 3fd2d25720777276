/* Makes the JPEGs of this folder, and what libjpeg-turbo 2.1.5 decodes them to:
 *
 *     cc -o make make.c -ljpeg && ./make
 *     for file in *_plain.jpg; do djpeg -ppm "$file" > "${file%_plain.jpg}.ppm"; done
 *
 * NAME_HOW.jpg: NAME is the colours and their sampling factors, HOW the way in which they are
 * stored:
 *   plain        baseline, all colours in one scan
 *   restart      the same, with a restart after every second unit
 *   progressive  libjpeg's own series of scans
 *   separate     baseline, each colour in a scan of its own, with restarts after every fifth block
 *   paired       baseline, the first colour by itself, then the others
 * How a file is stored makes no difference to its pixels: NAME.ppm is right for all of NAME's
 * files. */
#include <stdio.h>
#include <string.h>
#include <jpeglib.h>

enum { WIDTH = 37, HEIGHT = 19 };

static void make(const char *name, J_COLOR_SPACE space, const char *factors, const char *how) {
    int count = space == JCS_GRAYSCALE ? 1 : space == JCS_CMYK || space == JCS_YCCK ? 4 : 3;
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    jpeg_scan_info scans[4];
    char path[100];
    snprintf(path, sizeof path, "%s_%s.jpg", name, how);
    FILE *file = fopen(path, "wb");
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_stdio_dest(&jpeg, file);
    jpeg.image_width = WIDTH;
    jpeg.image_height = HEIGHT;
    jpeg.input_components = count;
    jpeg.in_color_space = count == 1 ? JCS_GRAYSCALE : count == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&jpeg);
    jpeg_set_colorspace(&jpeg, space);
    jpeg_set_quality(&jpeg, 90, TRUE);
    jpeg.optimize_coding = TRUE;
    for (int i = 0; i < count; i++) {
        jpeg.comp_info[i].h_samp_factor = factors[2 * i] - '0';
        jpeg.comp_info[i].v_samp_factor = factors[2 * i + 1] - '0';
    }
    if (!strcmp(how, "restart"))
        jpeg.restart_interval = 2;
    if (!strcmp(how, "separate"))
        jpeg.restart_interval = 5;
    if (!strcmp(how, "progressive"))
        jpeg_simple_progression(&jpeg);
    if (!strcmp(how, "separate") || !strcmp(how, "paired")) {
        int paired = how[0] == 'p', next = 0;
        memset(scans, 0, sizeof scans);
        jpeg.num_scans = paired ? 2 : count;
        for (int scan = 0; scan < jpeg.num_scans; scan++) {
            scans[scan].comps_in_scan = paired && scan == 1 ? count - 1 : 1;
            scans[scan].Se = 63;
            for (int i = 0; i < scans[scan].comps_in_scan; i++)
                scans[scan].component_index[i] = next++;
        }
        jpeg.scan_info = scans;
    }
    jpeg_start_compress(&jpeg, TRUE);
    for (int y = 0; y < HEIGHT; y++) {
        unsigned char row[4 * WIDTH];
        JSAMPROW rows = row;
        for (int x = 0; x < WIDTH; x++)
            for (int i = 0; i < count; i++) {
                /* Strokes on a ground that changes slowly; the fourth colour is black's absence. */
                int stroke = (x / 5 + y / 7 + i) % 3 == 0;
                int value = stroke ? 60 + 30 * i : 200 - 25 * i + x / 2 - y;
                row[count * x + i] = i == 3 ? 255 - value / 3 : value;
            }
        jpeg_write_scanlines(&jpeg, &rows, 1);
    }
    jpeg_finish_compress(&jpeg);
    fclose(file);
}

int main(void) {
    static const struct {
        const char *name;
        J_COLOR_SPACE space;
        const char *factors;
    } colours[] = {
        {"grey", JCS_GRAYSCALE, "11"},          {"grey_22", JCS_GRAYSCALE, "22"},
        {"rgb", JCS_RGB, "111111"},             {"ycc", JCS_YCbCr, "111111"},
        {"ycc_21", JCS_YCbCr, "211111"},        {"ycc_12", JCS_YCbCr, "121111"},
        {"ycc_22", JCS_YCbCr, "221111"},        {"ycc_41", JCS_YCbCr, "411111"},
        {"ycc_42", JCS_YCbCr, "421111"},        {"ycc_22_21_12", JCS_YCbCr, "222112"},
        {"cmyk", JCS_CMYK, "11111111"},         {"cmyk_22", JCS_CMYK, "22111122"},
        {"ycck", JCS_YCCK, "11111111"},         {"ycck_22", JCS_YCCK, "22111122"},
    };
    static const char *hows[] = {"plain", "restart", "progressive", "separate", "paired"};
    for (unsigned c = 0; c < sizeof colours / sizeof *colours; c++)
        for (int h = 0; h < 5; h++)
            if (h < 3 || colours[c].space != JCS_GRAYSCALE)
                make(colours[c].name, colours[c].space, colours[c].factors, hows[h]);
    return 0;
}
